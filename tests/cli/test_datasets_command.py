"""``ovseg datasets check``: numbers, problems line by line, the drawing, exit codes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from ovseg.cli import main


@pytest.fixture
def check(own_data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def call(*words):
        status = main(["datasets", "check", *words] if words else ["datasets", "check", "own"])
        out, err = capsys.readouterr()
        return status, out, err

    return call


def test_a_sound_folder(check, tmp_path):
    status, out, err = check()
    assert (status, err) == (0, "") and out.endswith("0 problems\n")
    assert "own: semantic, 12 of 12 images are sound, 12 labels of 8 bits" in out
    assert "2 of 2 classes occur" in out and "glorp" in out and "blix" in out
    with Image.open(tmp_path / "own_samples.png") as picture:
        assert picture.width > 4 * 48 and picture.height > 2 * 40


def test_problems_are_listed_and_the_rest_is_checked(check, own_data, tmp_path):
    (own_data / "labels/03.png").unlink()
    Image.fromarray(np.full((40, 48), 7, np.uint8)).save(own_data / "labels/04.png")
    status, out, err = check("own", "--drawing", "x.png")
    problems = [line for line in out.splitlines() if line.startswith("problem: ")]
    assert status == 1 and err == "" and (tmp_path / "x.png").is_file()
    assert problems == [
        "problem: image 'own/images/03.jpg' has no label; expected 'own/labels/03.png'",
        "problem: label 'own/labels/04.png' holds the value 7 (1920 pixels); expected 0 to 1, or 255 or 65535 for void",
    ]
    assert "10 of 11 images are sound" in out and out.endswith("2 problems\n")


def test_labels_of_too_few_bits(check, own_data):
    (own_data / "classes.txt").write_text("\n".join(f"kind {i}" for i in range(300)))
    status, out, _ = check()
    assert status == 1 and out.count("has 8 bits, which hold 255 classes and void; the list has 300") == 12
    assert "no image of 'own' can be drawn" in out


def test_json_limit_and_vocabulary(check, own_data):
    status, out, _ = check("own", "--json", "--limit", "3", "--vocabulary", "blix, glorps")
    found = json.loads(out)
    assert status == 0 and found["images"] == 3 and found["kind"] == "semantic" and found["bits"] == {"8": 3}
    assert [(entry["name"], entry["images"]) for entry in found["classes"]] == [("blix", 3), ("glorps", 3)]
    assert all(entry["pixels"] > 0 for entry in found["classes"]) and found["problems"] == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nothing",), "unknown data set"),
        (("own/images",), "is no data set"),
        (("own/nothing",), "does not exist"),
        (("own", "--limit", "0"), "expected at least 1"),
        (("own", "--drawing", "x.foo"), "--drawing is 'x.foo'; expected a name that ends in .png, .jpg, .jpeg, .webp"),
        (("coco_stuff_train2017",), "set DETECTRON2_DATASETS"),
    ],
)
def test_mistakes_are_one_line(check, words, message):
    status, out, err = check(*words)
    assert status == 2 and out == "" and err.startswith("error: ") and err.count("\n") == 1 and message in err


def test_a_picture_of_no_known_kind_is_refused_before_anything_is_read(own_data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("ovseg.data.registration.load_datasets", lambda *_, **__: pytest.fail("data was read"))
    for words in (["show", own_data, "--output", tmp_path / "samples"], ["check", own_data, "--drawing", "x.gpj"]):
        assert main(["datasets", *map(str, words)]) == 2
        err = capsys.readouterr().err
        assert "expected a name that ends in .png" in err and err.count("\n") == 1
