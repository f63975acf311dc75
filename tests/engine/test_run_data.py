"""The data of a run: all images are read first, what cannot be used is named, a share is held out."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ovseg.data.checking import check_dataset
from ovseg.data.contents import read_contents
from ovseg.data.registration import read_dataset
from ovseg.engine import run, soundness
from ovseg.engine.exporting import export_checkpoint
from ovseg.engine.held_out import HeldOut, draw, is_share
from ovseg.engine.soundness import examine
from ovseg.errors import ConfigError, InputError
from tests.engine.conftest import curve

Train = Callable[..., Path]


def break_labels(folder: Path, numbers: range) -> None:
    for number in numbers:
        Image.new("L", (48, 40), 9).save(folder / "labels" / f"{number:02d}.png")


def test_every_image_is_read_before_the_first_step(own_data: Path) -> None:
    """Not a sample of them: 99 sound images, and the last one is not."""
    for number in range(12, 100):
        for folder, suffix in (("images", "jpg"), ("labels", "png")):
            shutil.copy(own_data / folder / f"{number % 12:02d}.{suffix}", own_data / folder / f"{number:02d}.{suffix}")
    break_labels(own_data, range(98, 99))
    found = examine(read_dataset(str(own_data)))
    assert list(found.faults) == [98] and "98.png' holds the value 9" in found.faults[98]
    truth = np.concatenate([np.asarray(Image.open(p)).ravel() for p in sorted((own_data / "labels").iterdir())])
    areas = [(truth[truth != 9] == value).sum() for value in (0, 1, 255)]
    assert [*found.report.pixels, found.report.void] == areas


def test_what_was_read_is_not_read_again(own_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By content: only what has changed is, and what could not be used."""
    break_labels(own_data, range(3, 4))
    first = examine(read_dataset(str(own_data)))
    read = []
    real = soundness.see
    monkeypatch.setattr(soundness, "see", lambda data, record, how: read.append(record) or real(data, record, how))
    second = examine(read_dataset(str(own_data)))
    assert [Path(one["file_name"]).name for one in read] == ["03.jpg"]
    assert second.faults == first.faults and np.array_equal(second.report.pixels, first.report.pixels)
    assert second.report.hints == first.report.hints and second.report.problems == first.report.problems
    (own_data / "classes.txt").write_text("blix\nglorp\n")  # other names, the same files
    Image.new("L", (48, 40), 1).save(own_data / "labels/05.png")
    read.clear()
    third = examine(read_dataset(str(own_data)))
    assert [Path(one["file_name"]).name for one in read] == ["03.jpg", "05.jpg"]
    assert third.report.total == first.report.total and third.report.pixels[1] > first.report.pixels[1]


def test_unusable_images_are_named_and_left_out_on_request(train: Train, own_data: Path, tmp_path: Path) -> None:
    break_labels(own_data, range(5, 7))
    (own_data / "labels/08.png").unlink()
    with pytest.raises(InputError) as caught:
        train()
    assert re.search(r"08.jpg' has no label.* \(and 2 more, see above\); .*--skip-broken$", str(caught.value))
    log = (tmp_path / "run/log.txt").read_text()
    assert "2 of its 11 images cannot be used (`ovseg datasets check" in log
    assert "05.png' holds" in log and "06.png' holds" in log
    assert not (tmp_path / "run/last.pt").exists()
    folder = train(skip_broken=True)
    assert len(curve(folder)) == 8 and "data: 9 images" in (folder / "log.txt").read_text()
    record = json.loads((folder / "training.json").read_text())["data"]["train"][0]
    assert record["images"] == 9 and len(record["problems"]) == 3
    with pytest.raises(InputError, match="has no image that can be trained on"):
        for image in (own_data / "images").iterdir():
            image.write_bytes(b"no picture")
        train("none", skip_broken=True)


def times_100(folder: Path) -> None:
    for path in (folder / "labels").iterdir():
        Image.fromarray(np.minimum(np.asarray(Image.open(path)), 2) * 100).save(path)
    (folder / "classes.txt").write_text("glorp\nblix\nvoid\n")


def white_masks(folder: Path) -> None:
    for path in (folder / "labels").iterdir():
        Image.fromarray(np.where(np.asarray(Image.open(path)) == 1, 255, 0).astype(np.uint8)).save(path)


def numbered(folder: Path) -> None:
    (folder / "classes.txt").write_text("0: glorp\n1: blix\n")


def only_void(folder: Path) -> None:
    for path in (folder / "labels").iterdir():
        Image.new("L", (48, 40), 255).save(path)


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (times_100, "labels hold the values 0, 100, 200, multiples of 100, but class ids are 0 to 2; divide"),
        (white_masks, "all of 'blix' would be void; class ids are 0 to 1, save 1 in place of 255"),
        (
            numbered,
            "'classes.txt' has numbers beside the names",
        ),
        (only_void, "no pixel of any image has a class; expected some of glorp, blix"),
    ],
)
def test_labels_that_cannot_be_meant(
    train: Train, own_data: Path, tmp_path: Path, spoil: Callable[[Path], None], line: str
) -> None:
    """Nothing is trained on them, nor validated: the line is that of the check, and leaving out does not help."""
    other = tmp_path / "other"
    shutil.copytree(own_data, other)
    spoil(other)
    assert check_dataset(read_dataset(str(other))).problems[0].find(line) >= 0
    for key in ("TRAIN", "TEST"):
        with pytest.raises(InputError, match=re.escape(line)):
            train(changes={"DATASETS": {key: (str(other),)}}, skip_broken=True)
    assert not (tmp_path / "run/last.pt").exists()


def test_what_reading_got_around_is_said_and_kept(train: Train, panoptic_data: Path) -> None:
    """A segment that shows nothing, and ids that are written in two ways: the training goes on with the rest."""
    data = json.loads((panoptic_data / "panoptic.json").read_text())
    data["annotations"][4]["segments_info"].append({"id": 7, "category_id": 1, "iscrowd": 0})
    data["annotations"][5]["image_id"] = "5"
    (panoptic_data / "panoptic.json").write_text(json.dumps(data))
    lines = check_dataset(read_dataset(str(panoptic_data))).left_out
    assert len(lines) == 2
    for _ in range(2):  # the second time without reading the images
        folder = train(resume=True, changes={"DATASETS": {"TEST": (str(panoptic_data),)}})
        log = (folder / "log.txt").read_text()
        assert all(f"'{panoptic_data}': {line}" in log for line in lines) and "data: 12 images" in log
        record = json.loads((folder / "training.json").read_text())["data"]
        assert record["train"][0]["left_out"] == record["test"][0]["left_out"] == lines


def test_hints_and_notes_are_said_and_kept(train: Train, own_data: Path) -> None:
    """Of what is trained on and of what is validated on; at most ten lines of a kind in the log."""
    for number in range(11):
        Image.new("L", (48, 40), 255).save(own_data / "labels" / f"{number:02d}.png")
    (own_data / "classes.txt").write_text("glorp\nblix\nsnark\n")
    words = {"DATASETS": {"VOCABULARY": "glorp, blix, snark, mumph", "TEST": (str(own_data),)}}
    folder = train(changes=words)
    log = (folder / "log.txt").read_text()
    record = json.loads((folder / "training.json").read_text())["data"]
    assert log.count("has no pixel with a class") == 20 and log.count("hint: and 1 more of this kind") == 2
    assert log.count("hint: 1 class occurs in none of the 12 images: snark") == 2
    for part in ("train", "test"):
        assert any("mumph" in note for note in record[part][0]["notes"])
        assert sum("has no pixel with a class" in hint for hint in record[part][0]["hints"]) == 11


def test_classes_that_words_leave_out(own_data: Path, train: Train) -> None:
    folder = train(changes={"DATASETS": {"VOCABULARY": "glorp, mumph, quark"}})
    truth = np.concatenate([np.asarray(Image.open(p)).ravel() for p in (own_data / "labels").iterdir()])
    line = f"dropped 1 class (blix): {100 * (truth == 1).mean():.1f} % of the pixels"
    for text in ((folder / "log.txt").read_text(), (folder / "training.json").read_text()):
        assert line in text
    assert "dropped" not in (train("own") / "log.txt").read_text()


@pytest.mark.parametrize("name", ["0%", "100%", "250%", "-5%"])
def test_shares_that_cannot_be(name: str) -> None:
    with pytest.raises(ConfigError, match="more than 0% and less than 100%"):
        is_share(name)


def test_shares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_share("10%") and is_share("12.5 %") and not is_share("val") and not is_share("coco_stuff_val2017")
    with pytest.raises(ConfigError, match="or a share such as 50%"):
        is_share("50")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "50").mkdir()
    assert not is_share("50")


@given(st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=30), st.integers(1, 99), st.integers(0, 5))
def test_what_is_held_out(hashes: list[str], percent: int, seed: int) -> None:
    """Equal pictures stay together; neither their order nor what else there is changes the draw."""
    places = list(range(len(hashes)))
    if len(set(hashes)) == 1:
        with pytest.raises(InputError, match="none is left to train on"):
            draw(hashes, places, f"{percent}%", seed, "x")
        return
    try:
        drawn = draw(hashes, places, f"{percent}%", seed, "x")
    except InputError:
        assert round(len(hashes) * percent / 100) > len(hashes) / 2
        return
    out = {hashes[place] for place in drawn}
    assert len(drawn) >= max(1, round(len(hashes) * percent / 100))
    assert all((hashes[place] in out) == (place in drawn) for place in places)
    turned = draw(hashes[::-1], places, f"{percent}%", seed, "x")
    assert {hashes[::-1][place] for place in turned} == out


def test_a_share_is_held_out(train: Train, own_data: Path) -> None:
    folder = train("a", changes={"DATASETS": {"TEST": ("25%",)}})
    kept = HeldOut.read(folder)
    assert kept is not None and kept.share == "25%" and len(kept.images[str(own_data)]) == 3
    log = (folder / "log.txt").read_text()
    assert "data: 9 images" in log and "(25% held out)': 3 images" in log and "trained on" not in log
    trained = {json.loads(line)[0] for line in (folder / "data.jsonl").read_text().splitlines()[1:]}
    assert len(trained) == 9 and not trained & set(kept.images[str(own_data)])
    assert HeldOut.read(train("b", changes={"DATASETS": {"TEST": ("25%",)}})) == kept
    other = HeldOut.read(train("c", changes={"DATASETS": {"TEST": ("25%",)}, "SEED": 3}))
    assert other is not None and other.images != kept.images
    with pytest.raises(ConfigError, match=r"25% and 10% of the training images; expected one share"):
        train("d", changes={"DATASETS": {"TEST": ("25%", "10%")}})


def test_no_copy_of_what_is_held_out_is_trained_on(train: Train, own_data: Path, tmp_path: Path) -> None:
    """In no other data set, under no other name; nor when the run goes on after one was added."""
    other = tmp_path / "other"
    for folder, suffix in (("images", "jpg"), ("labels", "png")):
        (other / folder).mkdir(parents=True)
        for number in range(12):
            shutil.copy(own_data / folder / f"{number:02d}.{suffix}", other / folder / f"copy{11 - number}.{suffix}")
    shutil.copy(own_data / "classes.txt", other)
    Image.new("RGB", (48, 40), "red").save(other / "images/new.jpg")
    Image.new("L", (48, 40), 1).save(other / "labels/new.png")
    changes = {"DATASETS": {"TRAIN": (str(own_data), str(other)), "TEST": ("25%",)}}

    def hashes(folder: Path) -> tuple[set[str], set[str]]:
        kept = HeldOut.read(folder)
        assert kept is not None
        pictures = [Path(name) / "images" / image for name, images in kept.images.items() for image in images]
        out = {hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in pictures}
        return {one.image.hash for part in read_contents(folder / "data.jsonl") for one in part.images.values()}, out

    folder = train(changes=changes)
    trained, out = hashes(folder)
    assert len(trained | out) == 13 and not trained & out and len(out) >= 3
    kept = HeldOut.read(folder)
    assert kept is not None
    shutil.copy(own_data / "images" / kept.images[str(own_data)][0], own_data / "images/again.jpg")
    shutil.copy(own_data / "labels/00.png", own_data / "labels/again.png")
    train(resume=True, changes=changes, MAX_ITER=9)
    assert hashes(folder) == (trained, out)


def test_held_out_images_that_are_gone_are_said(train: Train, own_data: Path) -> None:
    changes = {"DATASETS": {"TEST": ("25%",)}}
    folder = train(changes=changes)
    kept = HeldOut.read(folder)
    assert kept is not None
    gone = own_data / "images" / kept.images[str(own_data)][0]
    gone.unlink()
    (own_data / "labels" / gone.name).with_suffix(".png").unlink()
    run.evaluate(str(folder), {})
    train(resume=True, changes=changes, MAX_ITER=9)
    log = (folder / "log.txt").read_text()
    assert "1 of its 3 images that were held out are not there any more" in log
    assert "1 of its 3 images that were held out cannot be used any more" in log


def test_images_that_are_trained_on_are_found_by_content(train: Train, own_data: Path, tmp_path: Path) -> None:
    """Under other names, in another folder."""
    other = tmp_path / "other"
    shutil.copytree(own_data, other)
    for number in range(12):
        for folder, suffix in (("images", "jpg"), ("labels", "png")):
            file = other / folder / f"{number:02d}.{suffix}"
            file.unlink() if number > 2 else file.rename(file.with_stem(f"other{number}"))
    Image.new("RGB", (48, 40), "red").save(other / "images/new.jpg")
    Image.new("L", (48, 40), 1).save(other / "labels/new.png")
    (other / "classes.txt").write_text("glorps\nblix\nwomble\n")
    log = (train(changes={"DATASETS": {"TEST": (str(other),)}}) / "log.txt").read_text()
    assert re.search(r"other': 4 images, 3 of which are trained on: its numbers measure nothing new", log)
    assert re.search(r"other: mIoU .*; 3 of its images were trained on: this is no measure", log)
    assert "1 of its 3 classes are not learnt here: womble" in log  # and glorps is a synonym of glorp


def test_what_the_start_weights_were_trained_on_is_no_test(train: Train, own_data: Path) -> None:
    """Held out of the second training, but not of the first; nor when it goes on, or is exported and trained again."""
    first = train("first", MAX_ITER=2)
    start = {"MODEL": {"WEIGHTS": str(first / "model.safetensors")}, "DATASETS": {"TEST": ("25%",)}}
    second = train("second", MAX_ITER=2, changes=start)
    train("second", resume=True, MAX_ITER=3, changes=start)
    run.evaluate(str(second), {})
    log = (second / "log.txt").read_text()
    assert log.count("3 images, 3 of which are trained on") == 2 and log.count("; 3 of its images were trained on") == 3
    export_checkpoint(second, second.with_name("copy"))
    third = {**start, "MODEL": {"WEIGHTS": str(second.with_name("copy") / "model.safetensors")}}
    assert "3 of its images were trained on" in (train("third", MAX_ITER=1, changes=third) / "log.txt").read_text()
    fresh = {"DATASETS": {"TEST": ("25%",)}}
    assert "were trained on" not in (train("fresh", MAX_ITER=1, changes=fresh) / "log.txt").read_text()


def test_without_data_for_it_nothing_is_validated(train: Train, own_data: Path) -> None:
    log = (train() / "log.txt").read_text()
    assert re.search(r"no validation: .* --val DIR, .* --val 10%", log) and "mIoU" not in log
