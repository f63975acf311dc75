"""Own data by the command line: train, resume, evaluate, segment a new image; mistakes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from ovseg.cli import main


@pytest.fixture
def ovseg(capsys):
    def call(*words):
        status = main([str(word) for word in words])
        out, err = capsys.readouterr()
        return status, out, err

    return call


def losses(folder):
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def test_own_data_from_folder_to_new_image(ovseg, training_config, own_data, tmp_path):
    folder = tmp_path / "mine"
    base = ("train", "--config-file", training_config, "--data", own_data, "--output", folder)
    assert ovseg(*base, "SOLVER.MAX_ITER", "20")[0] == 0
    status, out, _ = ovseg(*base, "--resume", "SOLVER.MAX_ITER", 30, "TEST.EVAL_PERIOD", 25)
    assert status == 0 and "going on at step 20" in out and out.count("own: mIoU") == 2
    assert len(losses(folder)) == 30 and sum(losses(folder)[-5:]) < sum(losses(folder)[:5])
    weights = ("MODEL.WEIGHTS", folder / "model.safetensors")
    status, again, _ = ovseg("train", "--config-file", folder / "config.yaml", "--eval-only", *weights)
    score = out.rpartition("own: mIoU ")[2].partition(" over")[0]
    assert status == 0 and f"own: mIoU {score} over the 2 classes present" in again
    pixels = np.zeros((40, 48, 3), np.uint8)
    pixels[8:24, 4:16] = 255, 0, 0
    Image.fromarray(pixels).save(tmp_path / "new.png")
    status, out, _ = ovseg("segment", tmp_path / "new.png", "--model", folder, "--output", tmp_path / "out")
    report = json.loads((tmp_path / "out/new.json").read_text())
    assert status == 0 and [entry["name"] for entry in report["classes"]] == ["glorp", "blix"]
    classes = ("--classes", "glorp, blix, tree")  # other words than it was trained with
    assert ovseg("segment", tmp_path / "new.png", "--model", folder, *classes, "--output", tmp_path / "o")[0] == 0


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "labels/05.png").unlink(), "05.jpg' has no label; expected"),
        (lambda f: Image.new("L", (48, 40), 2).save(f / "labels/05.png"), "holds the value 2 (1920 pixels); expected"),
        (lambda f: (f / "classes.txt").write_text("\n".join(f"kind {i}" for i in range(300))), "save 16-bit PNG"),
        (lambda f: (f / "classes.txt").unlink(), "classes.txt (a class a line) is missing"),
    ],
)
def test_mistakes_in_the_data(ovseg, training_config, own_data, tmp_path, spoil, message):
    spoil(own_data)
    status, _, err = ovseg("train", "--config-file", training_config)
    assert status == 2 and err.startswith("error: ") and err.count("\n") == 1 and message in err
    assert not (tmp_path / "run/last.pt").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["SOLVER.MAX_ITERS", "3"], "did you mean"),
        (["SOLVER.MAX_ITER"], "has no value"),
        (["--num-gpus", "0"], "expected 1 to"),
        (["--num-machines", "2"], "tcp://HOST:PORT"),
        (["--data", "nothing"], "unknown data set"),
        (["SOLVER.MAX_ITER", "many"], "cannot be used"),
    ],
)
def test_mistakes_on_the_command_line(ovseg, training_config, words, message):
    status, _, err = ovseg("train", "--config-file", training_config, *words)
    assert status == 2 and err.startswith("error: ") and err.count("\n") == 1 and message in err


def test_an_architecture_that_learns_nothing(ovseg, training_config):
    status, _, err = ovseg("train", "--config-file", training_config, "MODEL.META_ARCHITECTURE", "TrainingFree")
    assert status == 2 and "MODEL.SAN left out, which TrainingFree does not read" in err
    assert err.splitlines()[-1].startswith("error: ") and "no trainable parameter" in err.splitlines()[-1]
