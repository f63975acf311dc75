"""What a second call meets in the folder of a job: what it wrote, what others wrote, what failed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovseg.errors import InputError
from ovseg.jobs.label.plan import LabelPlan
from ovseg.jobs.label.run import label
from tests.conftest import make_photo
from tests.jobs.conftest import assert_same, files_of, write_photos

Ask = Callable[..., LabelPlan]
ALL = ("labels", "report", "dataset", "coco-semantic", "yolo-seg", "labelme", "label-studio", "cvat", "voc")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos", 3)


def test_fresh_takes_other_words_in_all_formats(plan: Ask, folder: Path, tmp_path: Path) -> None:
    out, other = tmp_path / "out", plan(folder, formats=ALL, classes="cat, door")
    label(plan(folder, formats=ALL), out)
    before = files_of(out)
    with pytest.raises(InputError, match="lists other classes"):
        label(other, out)
    assert files_of(out) == before
    label(other, out, fresh=True)
    label(other, tmp_path / "other")
    assert_same(out, tmp_path / "other")
    own = out / "labels/by_hand.png"
    own.write_bytes(b"of somebody")
    before = files_of(out)
    with pytest.raises(InputError, match=r"classes\.txt' lists other classes"):
        label(plan(folder, formats=ALL), out, fresh=True)
    assert files_of(out) == before  # what was made by hand would change its meaning
    label(plan(folder, classes="cat, door"), out, fresh=True)
    label(plan(folder, classes="cat, door"), tmp_path / "labels")
    (tmp_path / "labels/labels").mkdir()
    for name in ("classes.txt", "labels/by_hand.png"):  # stay: they may be of others
        (tmp_path / "labels" / name).write_bytes(before[name])
    assert_same(out, tmp_path / "labels")


def test_an_image_called_like_the_files_of_the_job(plan: Ask, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (folder / "0000.jpg").rename(folder / "run.jpg")
    label(plan(folder, formats=("report",)), out)
    assert json.loads((out / "run.json").read_text())["job"] == "label"
    assert json.loads((out / "run.jpg.json").read_text())["input"]["name"] == "run.jpg"
    assert label(plan(folder, formats=("report",)), out).before == 3


def test_where_all_images_failed_they_may_be_tried_again(plan: Ask, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    (photos / "a.png").write_text("no image")
    assert label(plan(photos, formats=ALL), out).failed
    Image.fromarray(make_photo(20, 16)).save(photos / "a.png")
    assert not label(plan(photos, formats=ALL), out, retry=True).failed
    label(plan(photos, formats=ALL), tmp_path / "other")
    assert_same(out, tmp_path / "other")


def test_of_failures_the_last_reason_counts(plan: Ask, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for content, says in ((b"no image", "holds text"), (b"", "is empty")):
        (folder / "0001.png").write_bytes(content)
        (row,) = label(plan(folder), out, retry=True).failed
        assert says in row["error"] and says in (out / "failed.jsonl").read_text()


def test_images_that_were_too_large_may_be_allowed(plan: Ask, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    Image.fromarray(make_photo(60, 60)).save(folder / "large.png")
    (row,) = label(plan(folder, max_pixels=3000), out).failed
    assert "--max-pixels 3600" in row["error"]
    assert not label(plan(folder, max_pixels=3600), out, retry=True).failed


@pytest.mark.parametrize(
    "name", ["images.jsonl", "failed.jsonl", "inputs.jsonl", "records/a.jsonl", "review/index.html"]
)
def test_files_of_others_are_refused_before_the_work(plan: Ask, folder: Path, tmp_path: Path, name: str) -> None:
    there = tmp_path / "out" / name
    there.parent.mkdir(parents=True)
    there.write_text("mine")
    with pytest.raises(InputError, match=f"{name}' is of no labelling job and would be replaced or deleted"):
        label(plan(folder, model="nowhere"), tmp_path / "out")
    assert files_of(tmp_path / "out") == {name: b"mine"}


def test_what_a_format_cannot_hold_costs_its_image_alone(plan: Ask, folder: Path, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((1, 66_000, 3), np.uint8)).save(folder / "long.png")
    Image.fromarray(make_photo(20, 16)).save(folder / "two\nlines.png")
    Image.fromarray(make_photo(20, 16)).save(folder / "\udcff.png")
    done = label(plan(folder, formats=("voc",)), tmp_path / "out")
    assert len(done.rows) == 6
    reasons = {row["image"]: row["error"] for row in done.failed}
    assert "JPEG holds up to 65500" in reasons.pop("long.png")
    assert {*reasons} == {"two\nlines.png", "\udcff.png"}
    assert all("cannot hold this name; rename the image" in reason for reason in reasons.values())
    listed = (tmp_path / "out/voc/ImageSets/Segmentation/trainval.txt").read_text().splitlines()
    assert listed == ["0000", "0001", "deep/0002"]
