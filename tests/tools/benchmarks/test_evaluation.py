"""The benchmark of the evaluators runs, and its exit status tells of limits that do not hold."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "tools"))
import benchmark

SMALL = ["evaluation", "--classes", "300", "--height", "90", "--width", "120", "--regions", "9", "--images", "2"]
pytestmark = pytest.mark.filterwarnings("ignore")


def test_numbers_agree_and_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new/numbers.json"
    limits = ["--semantic-limit", "0", "--panoptic-limit", "0", "--json", str(path)]
    assert benchmark.main([*SMALL, *limits]) == 0
    report = json.loads(path.read_text())
    assert report["difference"] < 1e-9 and report["problems"] == []
    assert set(report["ratios"]) == {"semantic", "semantic, boundary", "panoptic"} and all(report["seconds"].values())
    assert "detectron2" in capsys.readouterr().out


def test_the_exit_status_tells_of_slowness(capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark.main([*SMALL, "--semantic-limit", "1e9", "--panoptic-limit", "0"]) == 1
    assert "times faster than detectron2; expected 1e+09" in capsys.readouterr().out
