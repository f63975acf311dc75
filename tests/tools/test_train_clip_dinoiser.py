"""The training of CLIP-DINOiser's heads: it learns, goes on after a kill as if nothing had been, and names mistakes."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import ovseg
from ovseg.data.scenes.bank import Bank
from ovseg.data.scenes.writing import write_split
from ovseg.recalibration.clip_dinoiser.squares import Pictures

ROOT = Path(__file__).parents[2]


def load_script(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return load_script("tools/train_clip_dinoiser.py")


@pytest.fixture(scope="module")
def scenes(tiny_bank: Bank, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    write_split(tiny_bank, "train", 5, 48, 0, root)
    return root / "train"


@pytest.fixture
def arguments(scenes: Path, tiny_clip: Path, tmp_path: Path) -> list[str]:
    options: dict[str, Any] = {"clip": tiny_clip, "guide": "masks", "saliency": "masks", "output": tmp_path / "run"}
    options |= {"dim": 8, "crop": 32, "batch": 3, "steps": 12, "drop-at": 9, "images": 8, "lr": 1e-2, "feats-idx": -2}
    return [str(scenes), *(part for name, value in options.items() for part in (f"--{name}", str(value)))]


def log_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_it_learns_and_its_heads_can_be_used(
    script: ModuleType, arguments: list[str], tiny_clip: Path, tmp_path: Path
) -> None:
    assert script.main([*arguments, "--steps", "60", "--drop-at", "50", "--half"]) == 0
    made = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert made == ["heads.safetensors", "last.pt", "log.jsonl", "training.png"]
    rows = log_of(tmp_path / "run")
    assert [row["step"] for row in rows] == list(range(60))
    for name in ("correlation", "objectness"):
        assert sum(row[name] for row in rows[-10:]) < 0.97 * sum(row[name] for row in rows[:10]), name
    assert rows[49]["lr"] == 1e-2 and rows[50]["lr"] == pytest.approx(1e-3)
    for file in ("heads.safetensors", "last.pt"):
        options = {"weights": str(tmp_path / "run" / file), "feats_idx": -2}
        overrides = {
            "MODEL": {
                "RECALIBRATION": {"NAME": "CLIP_DINOiser", "OPTIONS": options},
                "PROTOCOL": {"SOFTMAX": False, "LOGIT_SCALE": 1.0, "SHORT_SIDE": 32, "WINDOW": 0},
            }
        }
        result = ovseg.load(tiny_clip, "cpu", overrides=overrides)(torch.rand(3, 40, 56), "cat, dog")
        assert result.labels.shape == (40, 56)


def test_a_killed_run_goes_on_as_if_nothing_had_been(
    script: ModuleType, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert script.main([*arguments, "--output", str(tmp_path / "whole")]) == 0
    monkeypatch.setattr(script, "SAVE_EVERY", 5)
    trainer = script.Trainer(script.parse_args(arguments))
    train_step = trainer.train_step

    def die_at_the_eighth(*batch: torch.Tensor) -> dict[str, float]:
        if trainer.step == 7:
            raise KeyboardInterrupt
        result: dict[str, float] = train_step(*batch)
        return result

    monkeypatch.setattr(trainer, "train_step", die_at_the_eighth)
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert torch.load(tmp_path / "run/last.pt", weights_only=True)["step"] == 5
    assert script.main(arguments) == 0
    assert log_of(tmp_path / "run") == log_of(tmp_path / "whole")
    assert (tmp_path / "run/heads.safetensors").read_bytes() == (tmp_path / "whole/heads.safetensors").read_bytes()


def test_another_run_is_not_overwritten(
    script: ModuleType, arguments: list[str], scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = shutil.copytree(scenes, tmp_path / "scenes")
    arguments = [str(data), *arguments[1:]]
    assert script.main([*arguments, "--steps", "1"]) == 0
    assert script.main([*arguments, "--steps", "1", "--gamma", "0.5"]) == 2
    assert "holds a run of something else (gamma was 0.2, is 0.5); choose another" in capsys.readouterr().err
    next(iter(data.rglob("*.png"))).write_bytes(b"another picture")
    assert script.main([*arguments, "--steps", "1"]) == 2
    assert "holds a run of something else (files was" in capsys.readouterr().err


def test_a_guide_and_found_teach_without_masks(
    script: ModuleType, arguments: list[str], scenes: Path, tmp_path: Path
) -> None:
    torch.save({"decoder": torch.nn.Conv2d(32, 1, 1).state_dict()}, tmp_path / "found.pt")
    more = {"--guide": "clip:0.5", "--saliency": f"found:{tmp_path}/found.pt", "--saliency-guide": "clip:0.5"}
    own = [str(scenes / "images"), *arguments[1:], *(part for pair in more.items() for part in pair)]
    assert script.main([*own, "--steps", "2", "--feats-idx", "final"]) == 0
    assert len(log_of(tmp_path / "run")) == 2


def test_masks_follow_their_image(scenes: Path) -> None:
    pictures = Pictures(scenes, masks=True, crop=32)
    for index in range(5):
        image, segments, objects = pictures.draw(index, torch.Generator().manual_seed(index))
        assert image.shape == (3, 32, 32) and 0 <= image.min() and image.max() <= 1
        assert segments.shape == (32, 32) and objects.shape == (1, 32, 32)
        for segment in segments.unique():
            assert len(objects[0][segments == segment].unique()) == 1
    again = [pictures.draw(0, torch.Generator().manual_seed(3)) for _ in range(2)]
    assert all(torch.equal(first, second) for first, second in zip(*again, strict=True))


def test_teachers_on_the_grid_of_the_patches(script: ModuleType) -> None:
    segments = torch.tensor([[[0, 0, 1, 1]] * 4])
    vectors = script.fit(script.one_hot(segments), (2, 2))
    expected = torch.tensor([[1.0, 0, 1, 0], [0, 1, 0, 1]]).repeat(2, 1)
    torch.testing.assert_close(script.correlations(vectors)[0], expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--saliency", "found"], "--saliency is 'found'; expected masks or found:FILE"),
        (["--saliency", "found:nowhere.pt"], "weights file nowhere.pt does not exist"),
        (["--guide", "dino"], "unknown guide 'dino'"),
        (["--kernel", "2"], "--kernel is 2; expected an odd number"),
        (["--batch", "0"], "--batch is 0; expected at least 1"),
        (["--feats-idx", "-1"], "the number of blocks from feats_idx -1 on is 1; expected at least 2"),
        (["--feats-idx", "last"], "feats_idx is 'last'; expected one of final"),
        (["--clip", "minni"], "'minni' in 'clip/minni' names neither"),
    ],
)
def test_mistakes_are_one_line(
    script: ModuleType, arguments: list[str], change: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main([*arguments, *change]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}") and error.count("\n") == 1


def test_folders_without_images_or_masks(
    script: ModuleType, arguments: list[str], scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main([str(tmp_path), *arguments[1:]]) == 2
    assert "masks need panoptic.json, images/ and panoptic/" in capsys.readouterr().err
