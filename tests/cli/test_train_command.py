"""Own data by the command line: train, resume, evaluate, segment a new image; mistakes."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from ovseg.cli import main
from ovseg.vocabulary import Vocabulary


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
    base = ("train", "--config-file", training_config, "--data", own_data, "--val", "10%", "--output", folder)
    status, out, _ = ovseg(*base, "SOLVER.MAX_ITER", "20")
    assert status == 0 and "validation at the end on 'own (10% held out)': 1 images" in out.replace(
        str(own_data), "own"
    )
    status, out, _ = ovseg(*base, "--resume", "SOLVER.MAX_ITER", 30, "TEST.EVAL_PERIOD", 25)
    assert status == 0 and "going on at step 20" in out and out.count("own (10% held out): mIoU") == 2
    assert len(losses(folder)) == 30 and sum(losses(folder)[-5:]) < sum(losses(folder)[:5])
    weights = ("MODEL.WEIGHTS", folder / "model.safetensors")
    score = out.rpartition("own (10% held out): mIoU ")[2].splitlines()[0]
    for config in ((folder / "config.yaml", *weights), (folder,)):
        status, again, _ = ovseg("train", "--eval-only", "--config-file", *config)
        assert status == 0 and f"own (10% held out): mIoU {score}" in again
    status, again, _ = ovseg("train", "--eval-only", "--config-file", folder, "--val", own_data)
    assert status == 0 and re.search(r"own: mIoU .*; 11 of its images were trained on: this is no measure", again)
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


def test_options_on_both_sides_of_a_flag(ovseg, training_config, tmp_path):
    base, out = ("train", "--config-file", training_config), ("--output", tmp_path / "a")
    assert ovseg(*base, "SOLVER.MAX_ITER", 3, "--resume", "SOLVER.CHECKPOINT_PERIOD", 1, *out)[0] == 0
    assert ovseg(*base, "SOLVER.MAX_ITER", 5, "--resume", "SEED", 0, *out, "SOLVER.LOG_PERIOD", 1)[0] == 0
    assert len(losses(tmp_path / "a")) == 5
    with pytest.raises(SystemExit) as left:
        ovseg(*base, "SOLVER.MAX_ITER", 3, "--resum3", "SEED", 0)
    assert left.value.code == 2


def test_a_head_without_weights_is_refused_by_every_entrance(ovseg, training_config, own_data, tmp_path, photo):
    """Before any data are read."""
    calls = (
        ("train", "--config-file", training_config, "--eval-only", "--val", tmp_path / "nowhere"),
        ("segment", photo, "--model", training_config, "--classes", "a, b", "--output", tmp_path / "o"),
        ("eval", "--model", training_config, "--dataset", own_data, "--output", tmp_path / "e"),
    )
    for words in calls:
        status, _, err = ovseg(*words)
        assert status == 2 and "has no trained weights: the head of its SAN would be random" in err, words
    status, _, err = ovseg("train", "--config-file", "san/mini.yaml", "--eval-only", "--val", own_data)
    assert status == 2 and "take the model 'mini'" in err


def test_the_checkpoint_of_a_run_is_a_model_for_every_entrance(ovseg, training_config, own_data, tmp_path, photo):
    folder, val = tmp_path / "mine", ("--val", own_data)
    base = ("train", "--config-file", training_config, "--output", folder, "SOLVER.MAX_ITER", 4)
    assert ovseg(*base)[0] == 0
    (folder / "model.safetensors").unlink()
    only = ("train", "--eval-only", *val, "OUTPUT_DIR", tmp_path / "only")
    lines = set()
    for words in (("--config-file", folder), ("--config-file", training_config, "MODEL.WEIGHTS", folder / "last.pt")):
        status, out, err = ovseg(*only, *words)
        assert status == 0 and "is the checkpoint of a training at step 4 of 4" in err
        lines.add(out.partition("mIoU")[2])
    assert len(lines) == 1
    status, _, err = ovseg("segment", photo, "--model", folder, "--output", tmp_path / "out")
    assert status == 0 and err.count("last.pt' is the checkpoint of a training at step 4 of 4") == 1
    report = json.loads((tmp_path / "out/photo.json").read_text())
    assert [entry["name"] for entry in report["classes"]] == ["glorp", "blix"]
    status, out, _ = ovseg("export-checkpoint", folder)
    assert status == 0 and out.startswith("step 4 of 4") and (folder / "model.safetensors").exists()


def test_own_classes_and_not_those_of_the_recipe(ovseg, own_data, tmp_path):
    """The line of docs/own_data.md, on data whose classes the recipe does not know."""
    base = ("train", "--config-file", "san/san_mini_scenes.yaml", "--data", own_data, "--output", tmp_path / "mine")
    status, out, _ = ovseg(*base, "SOLVER.MAX_ITER", 1, "SOLVER.IMS_PER_BATCH", 1, "DATALOADER.NUM_WORKERS", 0)
    assert status == 0 and "DATASETS.VOCABULARY 'scenes' of the recipe belongs to data/scenes/train" in out
    learnt = json.loads((tmp_path / "mine/classes.json").read_text())
    assert learnt == Vocabulary.parse(own_data / "classes.txt").to_json()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--val", "50"], "or a share such as 50%"),
        (["--val", "0%"], "more than 0% and less than 100%"),
        (["--eval-only", "--resume"], "--resume with --eval-only, which trains nothing"),
        (["--adopt"], "give --resume, too"),
    ],
)
def test_flags_that_do_not_go_together(ovseg, training_config, words, message):
    status, _, err = ovseg("train", "--config-file", training_config, *words)
    assert status == 2 and message in err and err.count("\n") == 1


def test_nothing_to_evaluate_on(ovseg, training_config, tmp_path):
    assert ovseg("train", "--config-file", training_config, "SOLVER.MAX_ITER", 1)[0] == 0
    status, _, err = ovseg("train", "--config-file", tmp_path / "run", "--eval-only")
    assert status == 2 and "nothing to evaluate on; give --val DIR" in err
    status, _, err = ovseg("train", "--config-file", tmp_path / "run", "--eval-only", "--val", "10%")
    assert status == 2 and "is held out by a training" in err


def test_several_data_sets_and_other_words(ovseg, training_config, own_data, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(own_data, other)
    folder = tmp_path / "two"
    words = ("--vocabulary", "mumph, blix", "--rename", "glorp=mumph")
    data = ("--data", own_data, "--data", other, "--val", other, "--val", own_data)
    base = ("train", "--config-file", training_config, "--output", folder)
    status, out, _ = ovseg(*base, *data, *words)
    assert status == 0 and "data: 24 images, 2 classes" in out
    assert [entry["name"] for entry in json.loads((folder / "classes.json").read_text())] == ["mumph", "blix"]
    assert out.count("validation at the end on") == 2
