"""The training of the mini CLIP runs, can be interrupted at any step, and exports a model that loads."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import json
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ovseg.clip import ViTClip
from ovseg.data.scenes.bank import Bank

pytestmark = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="training needs torch >= 2.9")

CONFIG = {
    "model_cfg": {
        "embed_dim": 32,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 24, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    },
    "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
}


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, with a clock on which every look takes a tenth of a second: 0.05 minutes are 30 steps anywhere."""
    path = Path(__file__).parents[2] / "tools/train_mini_clip.py"
    monkeypatch.syspath_prepend(str(path.parent))
    spec = importlib.util.spec_from_file_location("train_mini_clip", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    ticks = itertools.count()
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(ticks) * 0.1))
    return module


@pytest.fixture
def arguments(tiny_bank: Bank, tmp_path: Path) -> list[str]:
    tiny_bank.save(tmp_path / "bank.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    options: dict[str, Any] = {"bank": tmp_path / "bank.safetensors", "config": tmp_path / "config.json"}
    options |= {
        "output": tmp_path / "run",
        "minutes": 0.05,
        "batch": 8,
        "device": "cpu",
        "phases": "16:0.5:0.5,24:0:0.5",
    }
    return [part for name, value in options.items() for part in (f"--{name}", str(value))]


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_run_makes_all_files(script: ModuleType, arguments: list[str], tmp_path: Path) -> None:
    assert script.main(arguments) == 0
    made = sorted(path.name for path in (tmp_path / "run").iterdir())
    weights = "open_clip_model.safetensors"
    assert made == ["checkpoint.pt", "log.jsonl", "open_clip_config.json", weights, "training.png"]
    rows = log_of(tmp_path / "run")
    assert [row["step"] for row in rows] == list(range(30))
    assert [row["size"] for row in rows] == [16] * 15 + [24] * 15
    assert all(row["loss"] > 0 and 0 <= row["accuracy"] <= 1 for row in rows)
    assert {"base_accuracy", "novel_accuracy"} <= set(rows[-1])
    assert (tmp_path / "run/training.png").read_bytes().startswith(b"\x89PNG")


def test_the_export_is_half_precision_and_loads(script: ModuleType, arguments: list[str], tmp_path: Path) -> None:
    trainer = script.Trainer(script.parse_args(arguments))
    trainer.run()
    state = load_file(tmp_path / "run/open_clip_model.safetensors")
    assert {tensor.dtype for tensor in state.values()} == {torch.float16}
    clip = ViTClip.from_folder(tmp_path / "run")
    assert (clip.image_size, clip.patch_size, clip.depth, clip.embed_dim) == (24, 8, 2, 32)
    assert (clip.mean, clip.std) == ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    images = torch.rand(2, 3, 24, 24)
    with torch.no_grad():
        expected = trainer.model.eval().encode_image(trainer.normalise(images))
        found = clip.dense((images - 0.5) / 0.25).cls
        assert clip.text(["a lemon"]).shape == (1, 32)
    torch.testing.assert_close(found.float(), expected, atol=2e-2, rtol=2e-2)


def test_a_killed_run_goes_on_from_its_checkpoint(
    script: ModuleType, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "SAVE_EVERY", 0.45)  # after every fifth step
    trainer = script.Trainer(script.parse_args(arguments))
    train_step, steps = trainer.train_step, []

    def die_at_the_eighth() -> dict[str, float]:
        steps.append(trainer.step)
        if len(steps) == 8:
            raise KeyboardInterrupt
        result: dict[str, float] = train_step()
        return result

    monkeypatch.setattr(trainer, "train_step", die_at_the_eighth)
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    with (tmp_path / "run/log.jsonl").open("a") as log:
        log.write('{"step": 7, "loss": 2.')  # as a kill in the middle of writing leaves it
    saved = torch.load(tmp_path / "run/checkpoint.pt", weights_only=True)
    assert saved["step"] == 5

    resumed = script.Trainer(script.parse_args(arguments))
    assert resumed.step == 5 and resumed.elapsed == pytest.approx(0.5)
    for key, value in resumed.model.state_dict().items():
        assert torch.equal(value, saved["model"][key]), key
    for optimizer, state, key in zip(
        resumed.optimizers, saved["optimizers"], ("momentum_buffer", "exp_avg"), strict=True
    ):
        assert torch.equal(next(iter(optimizer.state.values()))[key], state["state"][0][key])
    resumed.run()
    assert [row["step"] for row in log_of(tmp_path / "run")] == list(range(30))


def test_a_finished_run_is_only_exported_again(script: ModuleType, arguments: list[str], tmp_path: Path) -> None:
    assert script.main(arguments) == 0
    before = {name: (tmp_path / "run" / name).read_bytes() for name in ("log.jsonl", "open_clip_model.safetensors")}
    (tmp_path / "run/open_clip_model.safetensors").unlink()
    assert script.main(arguments) == 0
    assert before == {name: (tmp_path / "run" / name).read_bytes() for name in before}


def test_a_phase_resizes_position_embeddings_and_keeps_the_rest(script: ModuleType, arguments: list[str]) -> None:
    trainer = script.Trainer(script.parse_args(arguments))
    trainer.train_step()
    old = {key: value.clone() for key, value in trainer.model.state_dict().items()}
    assert (trainer.size, trainer.model.visual.positional_embedding.shape) == (16, (5, 32))
    trainer.elapsed = 0.6 * 3
    trainer._enter_phase(trainer.model.state_dict(), [o.state_dict() for o in trainer.optimizers])
    new = trainer.model.state_dict()
    assert (trainer.size, new["visual.positional_embedding"].shape) == (24, (10, 32))
    assert torch.equal(new["visual.positional_embedding"][0], old["visual.positional_embedding"][0])
    assert all(torch.equal(new[key], old[key]) for key in old if key != "visual.positional_embedding")
    known = {p for optimizer in trainer.optimizers for p in optimizer.state}
    without = [n for n, p in trainer.model.named_parameters() if p not in known]
    assert without == ["visual.positional_embedding"]
    trainer.train_step()
    assert trainer.batch(0)[0].shape == (8, 3, 24, 24)


def test_training_never_shows_novel_concepts(
    script: ModuleType, arguments: list[str], tiny_bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    original = script.caption
    monkeypatch.setattr(script, "caption", lambda *a: seen.extend(texts := original(*a)) or texts)
    trainer = script.Trainer(script.parse_args(arguments))
    names = [tiny_bank.concepts[i].name for i in trainer.pool.tolist()]
    assert names == ["flamingo", "frog", "lemon", "tomato", "whale"]
    for step in range(40):
        images, tokens = trainer.batch(step)
        assert images.shape[0] == tokens.shape[0] == 8
    assert len(seen) == 320
    assert not any(word in text for text in seen for word in ("cup", "mug", "leaf"))


def test_it_learns(script: ModuleType, arguments: list[str]) -> None:
    trainer = script.Trainer(script.parse_args([*arguments, "--phases", "16:0:1", "--minutes", "0.5"]))
    trainer.elapsed = 6.0  # warm
    losses = []
    for trainer.step in range(60):
        losses.append(trainer.train_step()["loss"])
    assert sum(losses[-15:]) < 0.9 * sum(losses[:15])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--bank", "nowhere.safetensors"], "'nowhere.safetensors' is no bank of Scenes"),
        (["--config", "nowhere.json"], "'nowhere.json' is no open_clip config"),
        (["--phases", "64,96"], "--phases '64,96' cannot be read; expected SIZE:DROPOUT:SHARE"),
        (["--device", "abacus"], "unknown device 'abacus'"),
    ],
)
def test_mistakes_are_one_line(
    script: ModuleType, arguments: list[str], change: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main([*arguments, *change]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}") and error.count("\n") == 1


def test_a_checkpoint_of_another_config_is_refused_in_one_line(
    script: ModuleType, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script.Trainer(script.parse_args(arguments)).save()
    deeper = {**CONFIG["model_cfg"], "text_cfg": {**CONFIG["model_cfg"]["text_cfg"], "layers": 3}}
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "model_cfg": deeper}))
    capsys.readouterr()
    assert script.main(arguments) == 2
    error = capsys.readouterr().err
    assert "holds a run of something else (config was" in error and error.count("\n") == 1


def test_a_checkpoint_of_another_bank_or_batch_is_refused(
    script: ModuleType, arguments: list[str], tiny_bank: Bank, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bank has the same name and shapes; its drawings are others."""
    script.Trainer(script.parse_args(arguments)).save()
    assert script.main([*arguments, "--batch", "4"]) == 2
    assert "(batch was 8, is 4); choose another --output" in capsys.readouterr().err
    dataclasses.replace(tiny_bank, sprites=255 - tiny_bank.sprites).save(tmp_path / "bank.safetensors")
    assert script.main(arguments) == 2
    assert "holds a run of something else (bank was" in capsys.readouterr().err
