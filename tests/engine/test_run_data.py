"""The data of a run: all images are read first, what cannot be used is named, a share is held out."""

from __future__ import annotations

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

from ovseg.data.registration import read_dataset
from ovseg.engine import soundness
from ovseg.engine.held_out import HeldOut, draw, is_share
from ovseg.engine.soundness import brief, dropped, examine
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
    truth = truth[truth != 9]
    assert found.areas.tolist() == [(truth == value).sum() for value in (0, 1, 255)]


def test_what_was_read_is_not_read_again(own_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By content: only what has changed is, and what could not be used."""
    break_labels(own_data, range(3, 4))
    first = examine(read_dataset(str(own_data)))
    read = []
    real = soundness._read_one
    monkeypatch.setattr(
        soundness, "_read_one", lambda raw, record, judging: read.append(record) or real(raw, record, judging)
    )
    second = examine(read_dataset(str(own_data)))
    assert [Path(one["file_name"]).name for one in read] == ["03.jpg"]
    assert second.faults == first.faults and np.array_equal(second.areas, first.areas)
    (own_data / "classes.txt").write_text("blix\nglorp\n")  # other names, the same files
    Image.new("L", (48, 40), 1).save(own_data / "labels/05.png")
    read.clear()
    third = examine(read_dataset(str(own_data)))
    assert [Path(one["file_name"]).name for one in read] == ["03.jpg", "05.jpg"]
    assert third.areas.sum() == first.areas.sum() and third.areas[1] > first.areas[1]


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
    assert record["images"] == 9 and len(record["left_out"]) == 3
    with pytest.raises(InputError, match="has no image that can be trained on"):
        break_labels(own_data, range(12))
        train("none", skip_broken=True)


def test_many_problems_of_a_kind_are_counted() -> None:
    problems = [f"label '{n}.png' holds the value {n}" for n in range(25)] + ["image 'x' has no label"]
    lines = brief(problems)
    assert lines[:10] == problems[:10] and lines[10] == problems[25]
    assert lines[11:] == ["... and 15 more like: label '...' holds the value N"]


def test_classes_that_words_leave_out(own_data: Path, train: Train) -> None:
    folder = train(changes={"DATASETS": {"VOCABULARY": "glorp, mumph, quark"}})
    truth = np.concatenate([np.asarray(Image.open(p)).ravel() for p in (own_data / "labels").iterdir()])
    share = 100 * (truth == 1).sum() / (truth < 255).sum()
    line = f"1 of its 2 classes are not among the 3 words; {share:.2f} % of the labelled pixels become void: blix"
    for text in ((folder / "log.txt").read_text(), (folder / "training.json").read_text()):
        assert line in text
    before = read_dataset(str(own_data))
    assert dropped(before, before, examine(before).areas) == ""


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


def test_without_data_for_it_nothing_is_validated(train: Train, own_data: Path) -> None:
    log = (train() / "log.txt").read_text()
    assert re.search(r"no validation: .* --val DIR, .* --val 10%", log) and "mIoU" not in log
