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
    status, out, err = check("own", "--drawing", "samples.png")
    assert (status, err) == (0, "") and out.endswith("0 problems\n")
    assert "own: semantic, 12 of 12 images are sound, 12 labels of 8 bits" in out
    assert "2 of 2 classes occur" in out and "glorp" in out and "blix" in out
    with Image.open(tmp_path / "samples.png") as picture:
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
    status, out, _ = check("own", "--drawing", "samples.png")
    assert status == 1 and out.count("has 8 bits, which hold 255 classes and void; the list has 300") == 10
    assert "problem: and 2 more of this kind" in out and out.endswith("13 problems\n")
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
        (
            ("own", "--drawing", "x.foo"),
            "--drawing is 'x.foo'; expected the name of a picture, such as one in .png, .jpg, ",
        ),
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
        assert "expected the name of a picture" in err and err.count("\n") == 1


def test_a_drawing_is_made_only_where_it_is_asked_for(check, tmp_path):
    before = set(tmp_path.rglob("*"))
    assert check()[0] == 0 and set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("ending", ["bmp", "tif", "TIFF", "gif", "jpg"])
def test_drawings_are_whatever_pillow_writes(check, tmp_path, ending):
    assert check("own", "--drawing", f"x.{ending}")[0] == 0
    with Image.open(tmp_path / f"x.{ending}") as picture:
        assert picture.width > 4 * 48


@pytest.mark.parametrize("name", ["x", "x.pcd", "x.wmf", "x.h5"])
def test_what_pillow_knows_and_cannot_write_is_refused(check, name):
    status, out, err = check("own", "--drawing", name)
    assert status == 2 and out == "" and "expected the name of a picture" in err


def test_many_lines_of_a_kind_are_counted(check, own_data):
    for path in own_data.glob("labels/*.png"):
        path.unlink()
    for number in range(30):
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(own_data / f"images/{number:02d}.jpg")
    status, out, _ = check()
    assert status == 1 and out.count("has no label; expected") == 10 and "problem: and 20 more of this kind" in out
    assert out.endswith("30 problems\n")
    found = json.loads(check("own", "--json")[1])
    assert len(found["problems"]) == 30 and list(found["kinds"]["problems"].values()) == [30]


def test_words_and_what_they_cost(check):
    status, out, _ = check("own", "--vocabulary", "sky, glorps", "--rename", "blix=block")
    assert status == 0
    for line in (
        "note: renamed 1 of 2 classes of the data: blix to block",
        "note: 1 class matched by a synonym: glorp as glorps",
        "note: dropped 1 of 2 classes of the data (block): their pixels are void",
        "note: 1 word (sky) has no labels and can only be wrong",
        "note: dropped 1 class (blix): 10.0 % of the pixels",
    ):
        assert line in out.splitlines(), out
    found = json.loads(check("own", "--json", "--vocabulary", "glorp")[1])
    assert found["dropped"] == [{"name": "blix", "pixels": 12 * 16 * 12}] and found["notes"]


def test_hints_do_not_count_as_problems(check, own_data):
    (own_data / "classes.txt").write_text("glorp\nblix\nsnark\n")
    status, out, _ = check()
    assert status == 0 and "hint: 1 class occurs in none of the 12 images: snark" in out
    assert out.endswith("0 problems, 1 hint\n")


def test_masks_of_0_and_255_are_named_and_neither_trained_nor_evaluated_on(
    check, own_data, tmp_path, training_config, capsys
):
    for path in own_data.glob("labels/*.png"):
        labels = np.asarray(Image.open(path))
        Image.fromarray(np.where(labels == 0, 255, 0).astype(np.uint8)).save(path)
    line = "labels hold the values 0, 255 alone, and 255 means no class: all of 'blix' would be void"
    status, out, _ = check()
    assert status == 1 and out.count(line) == 1
    runs = [
        ["eval", "--model", "mini", "--dataset", "own", "--output", "run"],
        ["train", "--config-file", str(training_config), "DATASETS.TEST", "()"],
    ]
    for words in runs:
        assert main(words) == 2
        assert line in capsys.readouterr().err
    assert not (tmp_path / "run/labels").exists()
