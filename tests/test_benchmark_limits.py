"""The benchmark of whole models against limits, on tiny ones: what it measures, compares, writes and fails on."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
import benchmark
import benchmark_common
import benchmark_limits as tool

from ovseg.clip import FrozenClip
from ovseg.ops.linear_layers import can_pack
from tests.test_benchmark_models import configs  # noqa: F401

pytestmark = pytest.mark.skipif(not can_pack(), reason="this PyTorch has no packed layers")


@pytest.fixture(autouse=True)
def here(monkeypatch, tiny_clip, configs) -> None:  # noqa: F811
    """Measure tiny models in this process."""
    monkeypatch.setattr(tool, "in_fresh_process", lambda measure, case, *_: measure(case))
    monkeypatch.setattr(benchmark_common, "random_clip", lambda arch, size: FrozenClip.from_folder(tiny_clip))
    monkeypatch.setattr(benchmark_common, "UNIT_SIZE", 32)
    rows = [
        tool.Row("tiny SAN", configs["san"], 5, (64, 64), (64, 64), 1e6, 10**6, (8.1, 826)),
        tool.Row("tiny SAN, wide", configs["san"], 40, (64, 90), (70, 100), 1e6, 10**6, (8.1, 826)),
        tool.Row("tiny FC-CLIP", configs["fcclip"], 5, (64, 64), (64, 64), 1e6, None, (35.7, 2495), True),
    ]
    monkeypatch.setattr(tool, "shipped_rows", lambda: rows)


def test_every_mode_is_measured_and_compared(tmp_path, capsys):
    path = tmp_path / "models.json"
    assert benchmark.main(["models", "--repeats", "1", "--json", str(path)]) == 0
    figures = {figure["name"]: figure for figure in json.loads(path.read_text())["figures"]}
    assert len(figures) == 3 * 4 * 3
    for row in ("tiny SAN", "tiny SAN, wide", "tiny FC-CLIP"):
        labels = figures[f"{row}, fp32: labels of a plain path"]
        assert labels["value"] >= 99.9 and labels["limit"] == 99.9
        packed, low = (figures[f"{row}, {mode}: labels of fp32"] for mode in ("fp32 packed", "bf16"))
        assert packed["value"] > 99 and low["limit"] is None
    assert benchmark.main(["models", "--repeats", "1", "--rows", "wide", "--compare", str(path)]) == 0
    assert "before" in capsys.readouterr().out


def test_objects_are_made_without_the_map_of_every_class(configs):  # noqa: F811
    from contextlib import ExitStack

    row = tool.shipped_rows()[2]
    model = tool.build(row.config, "fp32")
    with ExitStack() as stack, torch.inference_mode():
        result = model([tool.prepare(model, row, stack)])[0]
    assert {"labels", "panoptic_seg", "instances"} <= set(result) and len(result["sem_seg"]) == 0


def test_a_limit_that_does_not_hold_fails(monkeypatch, capsys):
    row = tool.shipped_rows()[0]
    monkeypatch.setattr(tool, "shipped_rows", lambda: [tool.replace(row, units=0.0)])
    assert benchmark.main(["models", "--repeats", "1", "--modes", "fp32"]) == 1
    assert "FAIL tiny SAN, fp32" in capsys.readouterr().out
    assert benchmark.main(["models", "--repeats", "1", "--modes", "bf16"]) == 0


@pytest.mark.parametrize("given", [["--modes", "fp33"], ["--rows", "SAM"]])
def test_mistakes_are_one_line(given, capsys):
    assert benchmark.main(["models", *given]) == 2
    assert capsys.readouterr().err.count("\n") == 1
