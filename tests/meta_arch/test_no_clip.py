"""A model that is no CLIP (`tests.meta_arch.colours`), by the API, the command line and an evaluation."""

from __future__ import annotations

import json

import numpy as np
import pytest
from detectron2.modeling import META_ARCH_REGISTRY
from PIL import Image

import ovseg
from ovseg.cli import main
from ovseg.errors import ConfigError
from ovseg.evaluation.runs.plan import Plan
from ovseg.evaluation.runs.run import Job, evaluate
from tests.meta_arch.colours import Colours


@pytest.fixture
def config(tmp_path):
    """A config of the model, which is registered for as long as the test runs."""
    META_ARCH_REGISTRY.register(Colours)
    path = tmp_path / "colours.yaml"
    path.write_text("VERSION: 2\nMODEL:\n  META_ARCHITECTURE: Colours\n")
    yield path
    META_ARCH_REGISTRY._obj_map.pop("Colours")


@pytest.fixture
def photo(tmp_path):
    """Red above, blue below."""
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:20, :, 0], pixels[20:, :, 2] = 255, 255
    Image.fromarray(pixels).save(tmp_path / "flag.png")
    return tmp_path / "flag.png"


def test_api(config, photo):
    segmenter = ovseg.load(config, "cpu")
    encoded = segmenter.encode(photo)
    result = encoded.answer(["blue", "red"], want=["instances", "panoptic", "class_scores"])
    assert (result.labels[:20] == 1).all() and (result.labels[20:] == 0).all()
    assert [own.area for own in result.instances] == [1200, 1200] and len(result.panoptic.segments) == 2
    assert result.class_scores.shape == (2, 40, 60) and result.meta["weights_hash"] == "eight colours"
    assert (encoded.answer(["white", "red"], "blue,").labels[20:] == -1).all()
    for option in ("packed", "compiled"):
        with pytest.raises(ConfigError, match=r"leave pack|leave compile"):
            ovseg.load(config, "cpu", **{option: True})


def test_command_line(config, photo, tmp_path, capsys):
    command = ["segment", str(photo), "--classes", "blue, red, cyan", "--model", str(config), "--device", "cpu"]
    assert main([*command, "--json", "--output", str(tmp_path / "out")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [entry["area"] for entry in told["classes"]] == [1200, 1200, 0]
    assert len(told["instances"]) == len(told["panoptic"]) == 2


def test_evaluation(config, own_data, tmp_path):
    (own_data / "classes.txt").write_text("red\nblue\n", encoding="utf-8")
    (run,) = evaluate([Job(Plan(str(own_data), str(config), device="cpu"), tmp_path / "run")])
    result = run.measures.results(run.log.good)["semantic"]
    assert len(run.log.good) == 12 and result.miou_present > 0.9
