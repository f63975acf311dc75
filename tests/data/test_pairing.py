"""Labels belong to images by their paths; nothing vanishes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ovseg.data.own_data import read_folder
from ovseg.data.pairing import read_label_pairs
from ovseg.errors import InputError


@pytest.fixture
def folder(tmp_path):
    """A function that writes empty files below images/ and labels/ and pairs them."""

    def pair(images, labels):
        for place, names in (("images", images), ("labels", labels)):
            (tmp_path / place).mkdir(exist_ok=True)
            for name in names:
                path = tmp_path / place / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
        records, problems, notes = read_label_pairs(tmp_path / "images", tmp_path / "labels")
        short = {
            record["file_name"].partition("images/")[2]: record["sem_seg_file_name"].partition("labels/")[2]
            for record in records
        }
        assert len(short) == len(records) and [record["image_id"] for record in records] == list(short)
        lines = [line.replace(f"{tmp_path}/", "") for line in (*problems, *notes)]
        return short, lines

    return pair


@pytest.mark.parametrize(
    ("images", "labels", "pairs"),
    [
        (["site0/1.jpg", "site1/1.jpg"], ["site1/1.png", "site0/1.png"], ["site0/1.png", "site1/1.png"]),
        (["a.jpg", "b/a.jpg"], ["a.labels.png", "b/a.PNG"], ["a.labels.png", "b/a.PNG"]),
        (["a.jpg", "a.png"], ["a.jpg.png", "a.png.png"], ["a.jpg.png", "a.png.png"]),
        (["a.jpg", "a.png"], ["a.jpg.labels.png", "a.png.labels.png"], ["a.jpg.labels.png", "a.png.labels.png"]),
        (["a.b.jpg"], ["a.b.png"], ["a.b.png"]),
    ],
)
def test_pairs(folder, images, labels, pairs):
    assert folder(images, labels) == (dict(zip(images, pairs, strict=True)), [])


def test_two_images_of_one_stem_are_refused_by_name(folder):
    pairs, lines = folder(["im0.jpg", "im0.png", "im1.jpg"], ["im0.png", "im1.png"])
    assert pairs == {"im1.jpg": "im1.png"}
    assert lines == [
        "2 images (im0.jpg, im0.png in 'images') claim the label 'labels/im0.png', and none is used; expected a label "
        "for each, called like the whole file: im0.jpg.png, im0.png.png"
    ]


def test_two_labels_of_one_image_are_refused_by_name(folder):
    pairs, lines = folder(["a.jpg"], ["a.png", "a.labels.png"])
    assert not pairs
    assert lines == [
        "image 'images/a.jpg' has 2 labels (a.labels.png, a.png in 'labels') and is not used; expected one"
    ]


def test_files_without_a_partner(folder):
    pairs, lines = folder(["x/a.jpg", "b.jpg"], ["y/a.png", "b.png"])
    assert pairs == {"b.jpg": "b.png"}
    assert lines == [
        "image 'images/x/a.jpg' has no label; expected 'labels/x/a.png'",
        "label 'labels/y/a.png' has no image; expected 'images/y/a.jpg'",
    ]


@pytest.mark.parametrize(("before", "behind"), [("", "_mask"), ("gt_", ""), ("m-", "-labelIds")])
def test_a_pattern_of_names_is_one_line(folder, before, behind):
    images = [f"s/{i}.jpg" for i in range(12)]
    pairs, lines = folder([*images, "s/lone.jpg"], [f"s/{before}{i}{behind}.png" for i in range(12)])
    assert not pairs and len(lines) == 2
    assert lines[0].startswith(
        f"12 labels are called {before}STEM{behind}.png in 'labels' (s/{before}0{behind}.png for s/0.jpg, "
    )
    assert lines[1] == "image 'images/s/lone.jpg' has no label; expected 'labels/s/lone.png'"


def test_other_files_are_named_and_hidden_ones_are_not(folder):
    images = ["a.jpg", "notes.txt", "b/x.heics", ".DS_Store", ".ipynb_checkpoints/a.jpg"]
    pairs, lines = folder(images, ["a.labels.png", "a.overlay.png", "a.json"])
    assert pairs == {"a.jpg": "a.labels.png"}
    assert lines == [
        "2 files below 'images' left out as no images: b/x.heics, notes.txt",
        "2 files below 'labels' left out as no labels (which are PNG): a.json, a.overlay.png",
    ]


def test_links_are_followed_once(tmp_path):
    for name in ("images", "labels"):
        (tmp_path / name / "s").mkdir(parents=True)
        (tmp_path / name / "s" / ("a.jpg" if name == "images" else "a.png")).touch()
        (tmp_path / name / "s/back").symlink_to(tmp_path / name)
    records, problems, _ = read_label_pairs(tmp_path / "images", tmp_path / "labels")
    assert [record["image_id"] for record in records] == ["s/a.jpg"] and not problems


@given(st.sets(st.sampled_from([f"{d}{s}{e}" for d in ("", "x/") for s in "ab" for e in (".jpg", ".png")])), st.data())
def test_every_image_is_paired_or_named(tmp_path_factory, images, data):
    root = tmp_path_factory.mktemp("pairs")
    forms = [f"{d}{s}{e}" for d in ("", "x/") for s in "ab" for e in (".png", ".jpg.png", ".png.png", ".labels.png")]
    labels = data.draw(st.sets(st.sampled_from(forms)))
    for place, names in (("images", images), ("labels", labels)):
        (root / place / "x").mkdir(parents=True)
        for name in names:
            (root / place / name).touch()
    records, problems, _ = read_label_pairs(root / "images", root / "labels")
    said = "\n".join(problems)
    used = {record["image_id"] for record in records}
    masks = [record["sem_seg_file_name"] for record in records]
    assert len(set(masks)) == len(masks)
    for name in images - used:
        assert name in said or "more); expected STEM.png" in said
    for label in labels - {mask.partition("labels/")[2] for mask in masks}:
        assert label in said or "more); expected STEM.png" in said


def test_own_data_in_folders(own_data):
    for name in ("images", "labels"):
        (own_data / name / "site1").mkdir()
    Image.fromarray(np.zeros((40, 48, 3), np.uint8)).save(own_data / "images/site1/00.png")
    Image.fromarray(np.ones((40, 48), np.uint8)).save(own_data / "labels/site1/00.png")
    dataset = read_folder(own_data)
    assert len(dataset.records) == 13 and not dataset.problems and not dataset.notes
    names = [dataset.image_name(record) for record in dataset.records]
    assert "00.jpg" in names and "site1/00.png" in names and len(set(names)) == 13
    (own_data / "images/readme.md").touch()
    assert dataset.notes == () and "readme.md" in read_folder(own_data).notes[0]
    for path in own_data.glob("images/**/*.*"):
        path.rename(path.with_suffix(".xyz"))
    for path in own_data.glob("labels/**/*.png"):
        path.unlink()
    with pytest.raises(InputError, match=r"holds no images; expected .* left out as no images: 00.xyz"):
        read_folder(own_data)
