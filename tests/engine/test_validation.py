"""Validation is `ovseg eval` in the middle of a training: its measures, its numbers, its images."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from ovseg.cli import main
from ovseg.engine import hooks, pace
from ovseg.evaluation.runs.plan import Plan

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
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
    assert row == {"step": 19, **measured, f"{panoptic_data}/images_trained_on": 12}
    assert row[f"{panoptic_data}/panoptic/pq"] > 0 and f"{panoptic_data}/instance/ap" in row
    # By the folder, and by its files apart: either way FC-CLIP knows the words that it was trained on.
    apart = [str(folder / "config.yaml"), "MODEL.WEIGHTS", str(folder / "model.safetensors")]
    lines = set()
    for words in ([str(folder)], apart):
        only = ["train", "--eval-only", "OUTPUT_DIR", str(tmp_path / "only"), "--config-file"]
        assert main([*only, *words]) == 0
        lines.add((tmp_path / "only/log.txt").read_text().rpartition("mIoU ")[2])
    (line,) = lines
    numbers = [100 * measured[f"{panoptic_data}/{key}"] for key in ("miou_present", "panoptic/pq", "instance/ap")]
    assert line.startswith(f"{numbers[0]:.2f} over the 2 classes present, ")
    assert f"; PQ {numbers[1]:.2f}; AP {numbers[2]:.2f}; 12 of its images were trained on" in line
    assert line in (folder / "log.txt").read_text()


def spoilt(folder: Path, tmp_path: Path, damaged: bool = True) -> Path:
    """Copy data under other pictures, the first of which cannot be read."""
    other = tmp_path / "val"
    shutil.copytree(folder, other)
    for path in (other / "images").iterdir():
        Image.open(path).rotate(180).save(path)
    if damaged:
        (other / "images/00.jpg").write_bytes(b"no picture")
    return other


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_picture_that_cannot_be_read_ends_nothing(
    training_config: Path, own_data: Path, tmp_path: Path, processes: int
) -> None:
    """It is named before the first step and counted, with one process and with two, of which but one meets it."""
    val, folder = spoilt(own_data, tmp_path), tmp_path / "run"
    words = ["train", "--config-file", str(training_config), "--val", str(val), "TEST.EVAL_PERIOD", "3"]
    command = [sys.executable, "-W", "ignore", "-m", "ovseg.cli", *words, "--num-gpus", str(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    before, _, after = (folder / "log.txt").read_text().partition("step 2/8")
    assert "1 of its 12 images cannot be validated on" in before and "00.jpg'" in before
    check_left_out(folder, after, val)
    assert main(["train", "--config-file", str(folder), "--eval-only", "OUTPUT_DIR", str(tmp_path / "only")]) == 1


def test_a_picture_that_breaks_while_it_trains(
    training_config: Path, own_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    val, folder, real = spoilt(own_data, tmp_path, damaged=False), tmp_path / "run", hooks.Log.before_step

    def before_step(self: hooks.Log) -> None:
        (val / "images/00.jpg").write_bytes(b"no picture")
        real(self)

    monkeypatch.setattr(hooks.Log, "before_step", before_step)
    words = ["train", "--config-file", str(training_config), "--val", str(val), "TEST.EVAL_PERIOD", "3"]
    assert main(words) == 0
    check_left_out(folder, (folder / "log.txt").read_text(), val)


def check_left_out(folder: Path, text: str, val: Path) -> None:
    """Three validations went without the picture, and said so."""
    assert text.count("1 of 12 images left out: '00.jpg' (") == 3
    assert (folder / "model.safetensors").is_file()
    found = [row for row in map(json.loads, (folder / "log.jsonl").read_text().splitlines()) if "loss" not in row]
    assert [row["step"] for row in found] == [2, 5, 7] and {row[f"{val}/images_failed"] for row in found} == {1}
    assert 0 <= found[-1][f"{val}/miou_present"] <= 1


def test_a_validation_that_fails_ends_nothing(
    training_config: Path, own_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it fails of: the checkpoint and the model are on disk before, and the training goes on behind it."""
    seen = []

    def fail(*_: object) -> None:
        seen.append(
            sorted(path.name for path in (tmp_path / "run").iterdir() if path.suffix in (".pt", ".safetensors"))
        )
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr(Plan, "open_measures", fail)
    words = ["--config-file", str(training_config), "--val", "10%", "TEST.EVAL_PERIOD", "3"]
    assert main(["train", *words]) == 0
    assert seen == [["last.pt"], ["last.pt"], ["last.pt", "model.safetensors"]]
    log = (tmp_path / "run/log.txt").read_text()
    assert log.count("validation failed, there is no number: a fault of ours") == 3 and "step 8/8" in log


def test_it_says_how_far_it_is(training_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "EVERY", 0.0)
    assert main(["train", "--config-file", str(training_config), "--val", "25%"]) == 0
    log = (tmp_path / "run/log.txt").read_text()
    _, _, end = log.partition("step 8/8")
    assert end.index("the model is in") < end.index("(25% held out)': 3 images, 2 classes")
    for number in (1, 2, 3):
        assert f"held out)': {number} of 3 images, eta 0:00:00" in end
    assert "reading '" in log and "12 of 12 images, eta" in log
