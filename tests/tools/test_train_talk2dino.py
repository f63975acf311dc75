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
    (tmp_path / "captions.json").write_text("{}")
    assert script.main(arguments) == 2
    assert "expected JSON with images (id, file_name)" in capsys.readouterr().err
