"""COCO: stuff and objects from one kind of label image, 10k from MATLAB files, panoptic as published."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from ovseg.data.benchmarks.coco import PUBLISHED, object_table, stuff_table
from ovseg.data.registration import read_dataset
from ovseg.vocabulary import Vocabulary
from tests.data.benchmarks.conftest import labels_of, save_image, save_labels, stored, stripes

RAW = (255, 0, 12, 181)  # not labelled, person, stop sign, wood
STUFF, OBJECT = [-1, 0, 11, 170], [0, 1, 12, 0]


def tree(root, images, labels, values=RAW, count=2):
    for i in range(count):
        save_image(root / images.format(i), seed=i)
        save_labels(root / labels.format(i), stripes(*values))


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("coco/val2017/{}.jpg", "coco/stuffthingmaps/val2017/{}.png"),
        ("coco_stuff164k/images/val2017/{}.jpg", "coco_stuff164k/annotations/val2017/{}.png"),
    ],
)
def test_stuff_and_objects(root, expect, datasets, images, labels):
    for name in ("coco_stuff", "coco_object"):
        expect(name, 2)
    tree(root, images, labels)
    status, out, err = datasets("prepare", "coco_stuff", "coco_object")
    assert (status, err) == (0, "") and out.count("2 images") == 2
    stuff, objects = read_dataset("coco_stuff_val2017"), read_dataset("coco_object_val2017")
    assert labels_of(stuff) == STUFF and stored(stuff) == ("uint8", [255, 0, 11, 170])
    assert labels_of(objects) == OBJECT and len(objects.classes) == 81
    assert [stuff.classes[i].name for i in STUFF[1:]] == ["person", "stop sign", "wood"]
    assert [objects.classes[i].name for i in OBJECT] == ["background", "person", "stop sign", "background"]


@pytest.mark.parametrize(
    ("name", "images", "labels", "values", "found"),
    [
        (
            "coco_stuff",
            "coco/val2017/{}.jpg",
            "coco/stuffthingmaps_detectron2/val2017/{}.png",
            (255, 0, 11, 170),
            STUFF,
        ),
        (
            "coco_stuff",
            "coco_stuff164k/images/val2017/{}.jpg",
            "coco_stuff164k/annotations/val2017/{}_labelTrainIds.png",
            (255, 0, 11, 170),
            STUFF,
        ),
        (
            "coco_object",
            "coco_stuff164k/images/val2017/{}.jpg",
            "coco_stuff164k/annotations/val2017/{}_instanceTrainIds.png",
            (0, 1, 12, 0),
            OBJECT,
        ),
    ],
)
def test_converted_by_others(root, expect, name, images, labels, values, found):
    expect(name, 2)
    tree(root, images, labels, values)
    assert labels_of(read_dataset(f"{name}_val2017")) == found


def test_the_tables():
    stuff, objects = stuff_table(), object_table()
    assert (stuff >= 0).sum() == 171 and stuff[255] == -1 and stuff[11] == -2 and stuff[181] == 170
    assert sorted(set(objects[:256].tolist())) == [-2, *range(81)] and objects[255] == 0 and objects[89] == 80
    assert Vocabulary.parse("coco81").names[80] == Vocabulary.parse("coco171").names[79]


def test_10k(root, expect, datasets):
    expect("coco_stuff10k", 2)
    folder = root / "coco_stuff10k"
    (folder / "annotations").mkdir(parents=True)
    (folder / "imageLists").mkdir()
    (folder / "imageLists/test.txt").write_text("a\nb\n")
    for stem in "abc":  # c is of another split
        save_image(folder / f"images/{stem}.jpg")
        savemat(folder / f"annotations/{stem}.mat", {"S": stripes(0, 1, 13, 182)})
    assert datasets("prepare", "coco_stuff10k")[0] == 0
    dataset = read_dataset("coco_stuff10k_test")
    assert labels_of(dataset) == STUFF and [r["image_id"] for r in dataset.records] == ["a", "b"]


def test_10k_of_mmsegmentation(root, expect, datasets):
    """Its labels count the 171 from 1."""
    expect("coco_stuff10k", 2)
    labels = "coco_stuff10k/annotations/test2014/{}_labelTrainIds.png"
    tree(root, "coco_stuff10k/images/test2014/{}.jpg", labels, (0, 1, 12, 171))
    assert datasets("prepare", "coco_stuff10k")[0] == 0
    assert labels_of(read_dataset("coco_stuff10k_test")) == STUFF


@pytest.fixture
def panoptic(root, expect):
    expect("coco_panoptic", 2)
    published = {new[0]: old for old, new in PUBLISHED.items()}
    categories = [
        {"id": i + 1, "name": published.get(entry.name, entry.name), "isthing": int(entry.is_thing)}
        for i, entry in enumerate(Vocabulary.parse("coco133"))
    ]
    images, annotations = [], []
    for i in range(2):
        save_image(root / f"coco/val2017/{i}.jpg", seed=i)
        images.append({"id": i, "file_name": f"{i}.jpg", "height": 12, "width": 16})
        ids = stripes(0, 1, 300, 70000, dtype=np.int32)
        path = root / f"coco/panoptic_val2017/{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)).save(path)
        segments = [{"id": 1, "category_id": 1}, {"id": 300, "category_id": 1}, {"id": 70000, "category_id": 133}]
        annotations.append({"image_id": i, "file_name": f"{i}.png", "segments_info": segments})
    path = root / "coco/annotations/panoptic_val2017.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def test_panoptic(panoptic, root, datasets):
    status, out, err = datasets("prepare", "coco_panoptic")
    assert (status, err) == (0, "") and "2 images, 2 of 133 classes occur" in out
    dataset = read_dataset("coco_panoptic_val2017")
    assert labels_of(dataset) == [-1, 0, 0, 132] and dataset.classes == Vocabulary.parse("coco133")
    assert len(dataset.read_segments(dataset.records[0], (12, 16)).classes) == 3
    (root / "coco/panoptic_val2017").rename(root / "coco/annotations/panoptic_val2017")
    assert labels_of(read_dataset("coco_panoptic_val2017")) == [-1, 0, 0, 132]
    content = json.loads(panoptic.read_text())
    content["categories"].reverse()  # the order of a file means nothing
    panoptic.write_text(json.dumps(content))
    dataset = read_dataset("coco_panoptic_val2017")
    assert labels_of(dataset) == [-1, 0, 0, 132] and not dataset.notes


def test_panoptic_of_other_categories(panoptic, datasets):
    content = json.loads(panoptic.read_text())
    content["categories"].pop(50)
    panoptic.write_text(json.dumps(content))
    assert "lists 132 categories that are not the 133 of coco_panoptic" in datasets("prepare", "coco_panoptic")[2]
