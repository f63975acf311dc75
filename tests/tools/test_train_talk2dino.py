"""The training of Talk2DINO: it learns, goes on after a kill as if nothing had been, and names mistakes."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from ovseg.errors import WeightsError
from tests.conftest import write_vit_clip
from tests.meta_arch import models

ROOT = Path(__file__).parents[2]
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 60), "blue": (40, 60, 220)}


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return importlib.import_module("train_talk2dino")


@pytest.fixture
def arguments(tmp_path, tiny_clip):
    """Nine pictures of three colours, two captions each, in the layout of COCO captions."""
    (tmp_path / "images").mkdir()
    images, annotations = [], []
    for index in range(9):
        name, colour = list(COLOURS.items())[index % 3]
        noise = np.random.default_rng(index).integers(0, 30, (40 + index, 50, 3))
        Image.fromarray((np.array(colour) + noise).astype(np.uint8)).save(tmp_path / f"images/{index}.png")
        images.append({"id": 100 - index, "file_name": f"{index}.png"})
        annotations += [
            {"image_id": 100 - index, "caption": text.format(name)} for text in ("all {}\n", "a {} picture")
        ]
    (tmp_path / "captions.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    options = {"clip": tiny_clip, "backbone": models.backbone(), "side": 32, "epochs": 6, "batch": 5, "lr": 3e-3}
    options["output"] = tmp_path / "run"
    more = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    return [str(tmp_path / "captions.json"), str(tmp_path / "images"), *more]


def test_it_learns_and_its_head_can_be_used(script, arguments, tiny_clip, tmp_path):
    assert script.main(arguments) == 0
    rows = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(24))
    assert np.mean([row["loss"] for row in rows[-4:]]) < np.mean([row["loss"] for row in rows[:4]])
    model = models.build("talk2dino", tiny_clip, tmp_path / "run/head.safetensors", SIDE=32)
    state = load_file(tmp_path / "run/head.safetensors")
    assert torch.equal(model.recalibration.projection.linear_layer.weight, state["linear_layer.weight"])


def test_a_head_says_what_it_was_taught_with(script, arguments, tiny_clip, tmp_path):
    """Else another activation, CLIP or backbone of the same widths would do, and label nonsense."""
    assert script.main([*arguments, "--epochs", "1", "--activation", "relu"]) == 0
    head = tmp_path / "run/head.safetensors"
    with pytest.raises(
        WeightsError, match=r"taught with activation relu and the config has tanh; set MODEL\.Talk2DINO"
    ):
        models.build("talk2dino", tiny_clip, head, SIDE=32)
    assert models.build("talk2dino", tiny_clip, head, SIDE=32, ACTIVATION="relu")
    other = write_vit_clip(tmp_path / "other", 2, seed=9)
    with pytest.raises(
        WeightsError, match=r"head\.safetensors was taught with weights [0-9a-f]{16} of MODEL\.CLIP and"
    ):
        models.build("talk2dino", other, head, SIDE=32, ACTIVATION="relu")
    file = models.backbone().partition("@")[2]
    torch.save({key: value + 0.1 for key, value in torch.load(file).items()}, tmp_path / "other.pt")
    with pytest.raises(WeightsError, match=r"of MODEL\.Talk2DINO\.BACKBONE and these are"):
        models.build("talk2dino", tiny_clip, head, SIDE=32, ACTIVATION="relu", BACKBONE=f"test_vit@{tmp_path}/other.pt")


def test_images_are_known_by_their_content(script, arguments, tmp_path, capsys):
    assert script.main([*arguments, "--epochs", "1"]) == 0
    path = tmp_path / "images/3.png"
    content = bytearray(path.read_bytes())
    content[-20] ^= 1  # as many bytes
    path.write_bytes(content)
    assert script.main([*arguments, "--epochs", "1"]) == 2
    assert "holds a run of something else (pairs was" in capsys.readouterr().err


def test_squares_are_those_of_torchvision(script):
    from torchvision.transforms.functional import center_crop, resize

    for size in ((214, 321), (321, 214), (50, 50), (37, 500), (640, 427)):
        pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
        wanted = center_crop(resize(Image.fromarray(pixels), 96, Image.Resampling.BICUBIC), 96)
        found = script.middle_square(pixels, 96)
        assert torch.equal((found * 255).round().byte().permute(1, 2, 0), torch.from_numpy(np.array(wanted)))


def test_captions_that_are_cut_are_counted(script, arguments, tmp_path, capsys):
    path = tmp_path / "captions.json"
    data = json.loads(path.read_text())
    data["annotations"][2]["caption"] = "a very long story " * 60
    path.write_text(json.dumps(data))
    assert script.main([*arguments, "--epochs", "1"]) == 0
    assert "tokens; 1 captions are longer and cut: 'a very long story" in capsys.readouterr().err


@pytest.mark.slow
def test_it_goes_on_as_if_nothing_had_been(script, arguments, tmp_path, monkeypatch):
    assert script.main([*arguments[:-1], str(tmp_path / "whole")]) == 0
    steps = iter(range(7))

    def stopping(*given):
        if next(steps, None) is None:
            raise KeyboardInterrupt
        return step(*given)

    step, look = script.train_step, script.look
    monkeypatch.setattr(script, "SAVE_EVERY", 3)
    monkeypatch.setattr(script, "train_step", stopping)
    with pytest.raises(KeyboardInterrupt):
        script.main(arguments)
    monkeypatch.setattr(script, "train_step", step)
    monkeypatch.setattr(script, "look", lambda *given: pytest.fail("images were seen already"))
    assert script.main(arguments) == 0
    monkeypatch.setattr(script, "look", look)
    for name in ("head.safetensors", "log.jsonl", "heads.npy", "texts.npy"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_mistakes(script, arguments, tmp_path, capsys):
    (tmp_path / "images/3.png").rename(tmp_path / "elsewhere.png")
    assert script.main(arguments) == 2
    assert "1 of 9 images are not in" in capsys.readouterr().err
    (tmp_path / "elsewhere.png").rename(tmp_path / "images/3.png")
    assert script.main([*arguments, "--epochs", "1"]) == 0
    assert script.main([*arguments, "--epochs", "2"]) == 2
    assert "holds a run of something else (epochs" in capsys.readouterr().err
    for name, value, wanted in (
        ("hidden", "-1", "at least 0"),
        ("lr", "-1", "more than 0"),
        ("lr", "nan", "more than 0"),
    ):
        assert script.main([*arguments, f"--{name}", value]) == 2
        assert (
            f"--{name} is {float(value):g}" in (told := capsys.readouterr().err).replace("-1.0", "-1")
            and wanted in told
        )
    (tmp_path / "captions.json").write_text("{}")
    assert script.main(arguments) == 2
    assert "expected JSON with images (id, file_name)" in capsys.readouterr().err
