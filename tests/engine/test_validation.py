"""Validation is `ovseg eval` in the middle of a training: its measures, its numbers, its images."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ovseg.cli import main

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("processes", [1, 2])
def test_what_is_logged_is_what_eval_measures(
    panoptic_config: Path, panoptic_data: Path, tmp_path: Path, processes: int
) -> None:
    """To the last digit, however many processes share the images."""
    words = ["train", "--config-file", str(panoptic_config)]
    if processes == 1:
        assert main(words) == 0
    else:
        command = [sys.executable, "-W", "ignore", "-m", "ovseg.cli", *words, "--num-gpus", str(processes)]
        one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=ROOT, env=one_thread, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    folder = tmp_path / "run"
    row = json.loads((folder / "log.jsonl").read_text().splitlines()[-1])
    arguments = ["--model", str(folder), "--dataset", str(panoptic_data), "--output", str(tmp_path / "eval")]
    assert main(["eval", *arguments, "--device", "cpu"]) == 0
    metrics = json.loads((tmp_path / "eval/result.json").read_text())["metrics"]
    measured = {
        f"{panoptic_data}/{name if task == 'semantic' else f'{task}/{name}'}": entry["value"]
        for task, numbers in metrics.items()
        for name, entry in numbers.items()
        if task != "image" and entry["value"] is not None
    }
    assert row == {"step": 19, **measured}
    assert row[f"{panoptic_data}/panoptic/pq"] > 0 and f"{panoptic_data}/instance/ap" in row
    assert main(["train", "--config-file", str(folder), "--eval-only", "OUTPUT_DIR", str(tmp_path / "only")]) == 0
    numbers = [100 * measured[f"{panoptic_data}/{key}"] for key in ("miou_present", "panoptic/pq", "instance/ap")]
    line = (tmp_path / "only/log.txt").read_text().partition("mIoU ")[2]
    assert line.startswith(f"{numbers[0]:.2f} over the 2 classes present, ")
    assert f"; PQ {numbers[1]:.2f}; AP {numbers[2]:.2f}\n" in line
    assert line in (folder / "log.txt").read_text()
