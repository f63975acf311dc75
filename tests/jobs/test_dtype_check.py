"""Measuring bf16 beside fp32, and what the measurement then changes: the Segmenter's choice, and no evaluation."""

from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np
import pytest
import torch

import ovseg
from ovseg.cli import main
from ovseg.errors import EnvironmentProblem
from ovseg.evaluation.runs.plan import Plan
from ovseg.jobs import dtype_check
from ovseg.jobs.dtype_check import measure
from ovseg.segmenter import Segmenter
from ovseg.system import precision
from ovseg.system.precision import store

MODEL, WORDS = "mini-clearclip", "cup, tree, sky"


@pytest.fixture
def units(monkeypatch, tmp_path):
    monkeypatch.setattr(precision, "cpu_features", lambda: frozenset({"avx512_bf16"}))
    monkeypatch.setenv("OVSEG_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (60, 80, 3)).astype(np.uint8)


@pytest.mark.filterwarnings("ignore:.*knows drawings alone", "ignore:dtype auto is")
def test_a_measurement_makes_auto_bf16_but_for_evaluations(units, image, monkeypatch):
    before = ovseg.load(MODEL, device="cpu")
    found = measure(partial(ovseg.load, MODEL, "cpu"), [image, image[:40]], WORDS)
    assert found.whole.weights_hash == before.model.weights_hash
    assert found.whole.pixels == 60 * 80 + 40 * 80 and found.whole.images == len(found.images) == 2
    labels = [ovseg.load(MODEL, "cpu", dtype)([image, image[:40]], WORDS) for dtype in ("fp32", "bf16")]
    same = [int((a.labels == b.labels).sum()) for a, b in zip(*labels, strict=True)]
    assert found.whole.kept == sum(same) / found.whole.pixels
    assert [share for _, share in found.images] == [same[0] / 4800, same[1] / 3200]
    assert ovseg.load(MODEL, device="cpu").dtype == torch.float32  # nothing is stored yet

    store(dataclasses.replace(found.whole, kept=1.0, seconds=2.0, seconds_low=1.0))
    after = ovseg.load(MODEL, device="cpu")
    meta = after(image, WORDS).meta
    assert after.dtype == torch.bfloat16 and meta["dtype"] == "bfloat16"
    assert [line for line in meta["notes"] if line.startswith("dtype auto is bf16 here: 100.000 %")]
    shared = Segmenter(after.model, "another one of the same model")(image, WORDS).meta["notes"]
    assert len([line for line in shared if line.startswith("dtype auto")]) == 1
    assert ovseg.load(MODEL, device="cpu", dtype="fp32").dtype == torch.float32
    assert Plan(dataset="", model=MODEL).load("cpu").dtype == torch.float32


def test_a_processor_without_units_is_refused(monkeypatch, image):
    monkeypatch.setattr(dtype_check, "has_units", lambda: False)
    with pytest.raises(EnvironmentProblem, match="does not multiply bfloat16"):
        measure(partial(ovseg.load, MODEL, "cpu"), [image])


@pytest.mark.parametrize("arguments", [["--dtype", "mini"], ["--classes", "cup"]])
def test_the_command_wants_a_model_and_images(arguments, capsys):
    assert main(["doctor", *arguments]) == 2
    assert "expected a model and images: ovseg doctor --dtype MODEL IMAGES" in capsys.readouterr().err
