"""What data sets are by content: what counts as a change, what does not, and what is read for it."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovseg.data import contents as module
from ovseg.data.contents import class_differences, contents_of, differences, read_contents, write_contents
from ovseg.data.own_data import read_folder
from ovseg.errors import InputError
from ovseg.vocabulary import Vocabulary


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six images with labels, written a while ago."""
    folder = tmp_path / "data"
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for i in range(6):
        Image.fromarray(np.full((4, 5, 3), 40 * i, np.uint8)).save(folder / f"images/{i}.png")
        Image.fromarray(np.full((4, 5), i % 3, np.uint8)).save(folder / f"labels/{i}.png")
    (folder / "classes.txt").write_text("cat|kitten\ndog\nsofa\n")
    return folder


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let all files be old enough to be trusted, and note which are read."""
    found: list[str] = []
    real = module.file_hash
    monkeypatch.setattr(module, "_YOUNG", 0)
    monkeypatch.setattr(module, "file_hash", lambda path: found.append(Path(path).name) or real(path))
    return found


def again(folder: Path, path: Path) -> list[str]:
    """Compare a folder with what was written of it, as a run that goes on does."""
    (known,) = read_contents(path)
    return differences(known, contents_of(read_folder(folder), known))


@pytest.fixture
def kept(folder: Path, reads: list[str], tmp_path: Path) -> Path:
    path = tmp_path / "data.jsonl"
    write_contents(path, [contents_of(read_folder(folder))])
    assert len(reads) == 12
    reads.clear()
    return path


def test_nothing_is_read_when_nothing_has_changed(folder: Path, kept: Path, reads: list[str]) -> None:
    assert again(folder, kept) == [] and reads == []


def test_touched_moved_and_copied_data_are_the_same(folder: Path, kept: Path, reads: list[str]) -> None:
    os.utime(folder / "images/2.png")
    assert again(folder, kept) == [] and reads == ["2.png"]
    moved = folder.rename(folder.with_name("moved"))
    reads.clear()
    assert again(moved, kept) == [] and reads == ["2.png"]  # what is on disk there is as it was
    copy = Path(shutil.copytree(moved, moved.with_name("copy"), copy_function=shutil.copyfile))
    assert again(copy, kept) == [] and len(reads) == 1 + 12


def rewrite_labels(folder: Path) -> None:
    for i in range(6):
        Image.fromarray(np.full((4, 5), 2 - i % 3, np.uint8)).save(folder / f"labels/{i}.png")


def keep_size_and_time(folder: Path) -> None:
    """Write other bytes as many, and put the time back, as some tools do."""
    path = folder / "labels/5.png"
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[-20] ^= 255
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def remove_and_add(folder: Path) -> None:
    for name in ("images", "labels"):
        (folder / name / "0.png").rename(folder / name / "7.png")


CHANGES: list[tuple[Callable[[Path], object], list[str]]] = [
    (rewrite_labels, ["labels: 4 changed (0.png, 2.png, 3.png, ...)"]),
    (keep_size_and_time, ["labels: 1 changed (5.png)"]),
    (remove_and_add, ["images: 1 added (7.png)", "images: 1 removed (0.png)"]),
    (lambda folder: (folder / "images/3.png").write_bytes(b"x"), ["images: 1 changed (3.png)"]),
    (lambda folder: (folder / "images/3.png").chmod(0o600), []),
    (lambda folder: (folder / "classes.txt").write_text("cat|kitten\nsofa\ndog\n"),
     ["classes: 2 in another order (dog, sofa -> sofa, dog)"]),
    (lambda folder: (folder / "classes.txt").write_text("cat\ndog\nsofa\n"),
     ["classes: 1 with other synonyms (cat)"]),
]  # fmt: skip


@pytest.mark.parametrize(("change", "said"), CHANGES)
def test_changes_are_said(folder: Path, kept: Path, change: Callable[[Path], object], said: list[str]) -> None:
    change(folder)
    assert again(folder, kept) == said


def test_many_names_are_counted_and_some_images_may_be_asked_about(folder: Path, kept: Path) -> None:
    for path in (folder / "labels").iterdir():
        path.write_bytes(b"nothing")
    assert again(folder, kept) == ["labels: 6 changed (0.png, 1.png, 2.png, ...)"]
    (known,) = read_contents(kept)
    now = contents_of(read_folder(folder), known)
    assert differences(known, now, of={"4.png"}) == ["labels: 1 changed (4.png)"]


def test_a_missing_file_is_one_that_may_come(folder: Path, reads: list[str]) -> None:
    dataset = read_folder(folder)
    (folder / "images/1.png").unlink()
    before = contents_of(dataset)
    assert differences(before, contents_of(dataset, before)) == []
    (folder / "images/1.png").write_bytes(b"there")
    assert differences(before, contents_of(dataset, before)) == ["images: 1 changed (1.png)"]


def test_young_files_are_not_trusted(folder: Path) -> None:
    """Two writes within one tick of a disk's clock have one time; who looked in between is not deceived."""
    dataset = read_folder(folder)
    path = folder / "labels/0.png"
    now = time.time_ns()
    os.utime(path, ns=(now, now))
    before = contents_of(dataset)
    assert before.images["0.png"].truth[0].mtime == 0
    old = now - 10**10
    os.utime(path, ns=(old, old))
    assert differences(before, contents_of(dataset, before)) == []


def coco(folder: Path, shift: float = 0, root: str = "images") -> Path:
    (folder / root).mkdir(parents=True)
    images = [{"id": i, "file_name": f"{i}.png", "height": 4, "width": 5} for i in range(2)]
    for image in images:
        Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(folder / root / image["file_name"])
    outline = [[0.0, 0, 3, 0, 3 + shift, 3]]
    annotations = [
        {"id": 1, "image_id": 1, "category_id": 7, "iscrowd": 0, "segmentation": outline, "bbox": [0, 0, 3, 3]}
    ]
    categories = [{"id": 7, "name": "cat"}, {"id": 9, "name": "dog"}]
    text = json.dumps({"images": images, "annotations": annotations, "categories": categories})
    (folder / "instances.json").write_text(text)
    return folder


def test_annotations_in_a_json_file_count_and_folders_do_not(tmp_path: Path) -> None:
    one, other, elsewhere = coco(tmp_path / "a"), coco(tmp_path / "b", shift=0.5), coco(tmp_path / "c", root="images")
    first, second, third = (contents_of(read_folder(folder)) for folder in (one, other, elsewhere))
    assert differences(first, second) == ["labels: 1 changed (1.png)"]
    assert differences(first, third) == []


def test_masks_of_annotations_count_by_their_files(folder: Path, reads: list[str]) -> None:
    """As MVTec has them: the record names the mask, which is a file like any other."""
    dataset = read_folder(folder)
    records = [
        {"file_name": r["file_name"], "image_id": i, "annotations": [{"mask_file_name": r["sem_seg_file_name"]}]}
        for i, r in enumerate(dataset.records)
    ]
    marked = replace(dataset, records=records)
    before = contents_of(marked)
    shutil.copy(folder / "labels/1.png", folder / "labels/2.png")
    assert differences(before, contents_of(marked, before)) == ["labels: 1 changed (2.png)"]


def test_values_of_files_that_mean_other_classes_are_a_change(folder: Path) -> None:
    dataset = read_folder(folder)
    other = replace(dataset, remap=dataset.remap[::-1].copy())
    assert differences(contents_of(dataset), contents_of(other)) == [
        "classes: the values of the files stand for others of them"
    ]


def test_an_order_of_images_is_a_change_and_one_image_twice_is_two(folder: Path) -> None:
    dataset = read_folder(folder)
    turned = replace(dataset, records=dataset.records[::-1])
    assert differences(contents_of(dataset), contents_of(turned)) == ["images: in another order"]
    twice = contents_of(replace(dataset, records=[*dataset.records, dataset.records[0]]))
    assert list(twice.images)[-1] == "0.png (2)"


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        (["cat", "dog"], ["dog", "cat"], ["classes: 2 in another order (cat, dog -> dog, cat)"]),
        (["cat", "dog"], ["cat", "hound"], ["classes: 1 renamed (dog -> hound)"]),
        (["cat", "dog", "cow"], ["dog", "cow"], ["classes: 1 removed (cat)"]),
        (["cat", "dog"], ["cow", "cat", "dog"], ["classes: 1 added (cow)"]),
        (["a", "b", "c"], ["b", "a", "d"],
         ["classes: 1 renamed (c -> d)", "classes: 2 in another order (a, b -> b, a)"]),
        (["cat"], [{"name": "cat", "is_thing": False}], ["classes: 1 with other thing flags (cat)"]),
        (["cat"], ["cat"], []),
    ],
)  # fmt: skip
def test_differences_of_classes(before: list[str], now: list[object], said: list[str]) -> None:
    assert class_differences(Vocabulary.parse(before), Vocabulary.parse(now)) == said


def test_several_sets_lie_in_one_file_and_come_back(folder: Path, tmp_path: Path) -> None:
    dataset = read_folder(folder)
    both = [contents_of(dataset), contents_of(replace(dataset, records=dataset.records[:2]))]
    write_contents(tmp_path / "both.jsonl", both)
    back = read_contents(tmp_path / "both.jsonl")
    assert [one.images for one in back] == [one.images for one in both]
    assert back[0].classes == dataset.classes and back[0].values == both[0].values


@pytest.mark.parametrize("text", ["{", '{"format": 99}', '["a", [1, 2, 3, "x"], [], ""]'])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "data.jsonl").write_text(text)
    with pytest.raises(InputError, match="does not tell what a run's data were"):
        read_contents(tmp_path / "data.jsonl")
