"""PASCAL VOC with and without background; PASCAL Context from outlines, MATLAB files, and other tools' labels."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle
from scipy.io import savemat

from ovseg.data.benchmarks.pascal import NUMBERS_59, places_59
from ovseg.data.registration import read_dataset
from ovseg.vocabulary import Vocabulary
from tests.data.benchmarks.conftest import labels_of, save_image, save_labels, stored, stripes

# Stripes of PASCAL Context: not among the 59 (accordion), aeroplane, bag, wood.
NUMBERS = (1, 2, 9, 458)
PC59, PC60 = [-1, 0, 20, 58], [0, 1, 21, 59]


@pytest.fixture
def voc(root, expect):
    for name in ("voc20", "voc21"):
        expect(name, 2)
    folder = root / "VOCdevkit/VOC2012"
    palette = [value for i in range(256) for value in (i, 255 - i, i)]
    for stem in ("2007_000033", "2007_000042", "2007_000061"):
        save_image(folder / f"JPEGImages/{stem}.jpg")
        image = Image.fromarray(stripes(0, 1, 20, 255)).convert("P")
        image.putdata(stripes(0, 1, 20, 255).ravel())
        image.putpalette(palette)
        (folder / "SegmentationClass").mkdir(exist_ok=True)
        image.save(folder / f"SegmentationClass/{stem}.png")
    (folder / "ImageSets/Segmentation").mkdir(parents=True)
    (folder / "ImageSets/Segmentation/val.txt").write_text("2007_000033\n2007_000042\n")
    return folder


def test_voc(voc, datasets):
    status, out, err = datasets("prepare", "voc20", "voc21")
    assert (status, err) == (0, "") and "2 of 20 classes occur" in out and "3 of 21 classes occur" in out
    without, background = read_dataset("voc20_val"), read_dataset("voc21_val")
    assert labels_of(without) == [-1, 0, 19, -1] and stored(without)[1] == [255, 0, 19, 255]
    assert labels_of(background) == [0, 1, 20, -1] and background.classes[0].name == "background"
    assert [record["image_id"] for record in without.records] == ["2007_000033", "2007_000042"]


@pytest.mark.parametrize(
    ("name", "images", "labels", "values"),
    [
        ("voc20", "pascal_voc_d2/images/validation/{}.jpg", "pascal_voc_d2/annotations_pascal20/validation/{}.png", 0),
        ("voc21", "pascal_voc_d2/images/validation/{}.jpg", "pascal_voc_d2/annotations_pascal21/validation/{}.png", 1),
        ("voc20", "VOC2012/images_detectron2/val/{}.jpg", "VOC2012/annotations_detectron2/val/{}.png", 0),
    ],
)
def test_voc_of_other_tools(root, expect, name, images, labels, values):
    expect(name, 1)
    save_image(root / images.format("a"))
    save_labels(root / labels.format("a"), stripes(0, 1, 20, 255) if values else stripes(255, 0, 19, 255))
    assert labels_of(read_dataset(f"{name}_val")) == ([0, 1, 20, -1] if values else [-1, 0, 19, -1])


@pytest.fixture
def context(root, expect):
    for name in ("pc59", "pc60", "pc459"):
        expect(name, 2)
    folder = root / "VOCdevkit/VOC2010"
    for stem in ("2008_000002", "2008_000003", "2008_000004"):  # the last one is for training
        save_image(folder / f"JPEGImages/{stem}.jpg")
    return folder


def write_merged(folder):
    images, outlines = [], []
    for i, phase in enumerate(("val", "val", "train")):
        file_name = f"2008_{i + 2:06d}.jpg"
        images.append({"image_id": i, "file_name": file_name, "phase": phase, "height": 12, "width": 16})
        for place, number in enumerate(NUMBERS):
            mask = np.zeros((12, 16), np.uint8)
            mask[:, 4 * place :] = 1  # later ones on top
            outline = rle.encode(np.asfortranarray(mask))
            outline["counts"] = outline["counts"].decode()
            outlines.append({"image_id": i, "category_id": number, "segmentation": outline})
    (folder / "trainval_merged.json").write_text(json.dumps({"images": images, "annos_segmentation": outlines}))


def write_matlab(folder):
    (folder / "trainval").mkdir()
    for i in range(3):
        savemat(folder / f"trainval/2008_{i + 2:06d}.mat", {"LabelMap": stripes(*NUMBERS, dtype=np.uint16)})
    (folder / "pascalcontext_val.txt").write_text("2008_000002.jpg\n2008_000003.jpg\n")


def write_mmsegmentation(folder):
    for i in range(3):
        save_labels(folder / f"SegmentationClassContext/2008_{i + 2:06d}.png", stripes(0, 1, 2, 59))
    (folder / "ImageSets/SegmentationContext").mkdir(parents=True)
    (folder / "ImageSets/SegmentationContext/val.txt").write_text("2008_000002\n2008_000003\n")


def write_names(folder):
    known = {2: "aeroplane", 9: "bag", 458: "wood"}
    (folder / "labels.txt").write_text("".join(f"{i}: {known.get(i, f'kind {i}')}\n" for i in range(1, 460)))


@pytest.mark.parametrize("write", [write_merged, write_matlab, write_mmsegmentation])
def test_context_59_and_60(context, datasets, write):
    write(context)
    status, out, _ = datasets("prepare", "pc59", "pc60")
    assert status == 0 and "3 of 59 classes occur" in out and "4 of 60 classes occur" in out
    assert labels_of(read_dataset("pc59_val")) == PC59 and labels_of(read_dataset("pc60_val")) == PC60
    assert len(read_dataset("pcontext_sem_seg_val").records) == 2
    assert [read_dataset("pc59_val").classes[i].name for i in PC59[1:]] == ["aeroplane", "bag", "wood"]


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("VOCdevkit/VOC2010/JPEGImages/{}.jpg", "VOCdevkit/VOC2010/annotations_detectron2/pc59_val/{}.png"),
        ("pascal_ctx_d2/images/validation/{}.jpg", "pascal_ctx_d2/annotations_ctx59/validation/{}.png"),
        ("pcontext/val/image/{}.jpg", "pcontext/val/label/{}.png"),
    ],
)
def test_context_59_of_other_tools(root, expect, datasets, images, labels):
    """They count the 59 in the order of the alphabet, and ours in that of the data set's list."""
    for name in ("pc59", "pc60"):
        expect(name, 1)
    save_image(root / images.format("a"))
    save_labels(root / labels.format("a"), stripes(255, 0, 1, 58))
    assert datasets("prepare", "pc59", "pc60")[0] == 0
    assert labels_of(read_dataset("pc59_val")) == PC59 and labels_of(read_dataset("pc60_val")) == PC60


def test_context_459(context, root, datasets):
    write_matlab(context)
    write_names(context)
    status, out, err = datasets("prepare", "pc459")
    assert (status, err) == (0, "") and "4 of 459 classes occur" in out
    dataset = read_dataset("pc459_val")
    assert labels_of(dataset) == [0, 1, 8, 457] and stored(dataset) == ("uint16", [0, 1, 8, 457])
    assert dataset.classes[8].name == "bag"
    assert len(json.loads((root / "ovseg/pc459_val/classes.json").read_text())) == 459


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("VOCdevkit/VOC2010/JPEGImages/{}.jpg", "VOCdevkit/VOC2010/annotations_detectron2/pc459_val/{}.tif"),
        ("pascal_ctx_d2/images/validation/{}.jpg", "pascal_ctx_d2/annotations_ctx459/validation/{}.tif"),
        ("pcontext_full/val/image/{}.jpg", "pcontext_full/val/label/{}.tif"),
    ],
)
def test_context_459_of_other_tools(root, expect, datasets, images, labels):
    expect("pc459", 1)
    save_image(root / images.format("a"))
    save_labels(root / labels.format("a"), stripes(65535, 1, 255, 457, dtype=np.uint16))
    folder = root / "/".join(images.split("/")[: 2 if images.startswith("VOC") else 1])
    status, _, err = datasets("prepare", "pc459", "--check-only")
    assert status == 2 and "labels.txt' is missing" in err
    write_names(folder)
    assert labels_of(read_dataset("pc459_val")) == [-1, 1, 255, 457]


def test_context_faults(context, datasets):
    write_matlab(context)
    (context / "labels.txt").write_text("1: accordion\n2: aeroplane\n")
    assert "has 2 lines; expected 459" in datasets("prepare", "pc459")[2]
    write_names(context)
    (context / "trainval/2008_000002.mat").write_bytes(b"junk")
    savemat(context / "trainval/2008_000003.mat", {"Other": np.zeros((2, 2))})
    status, out, _ = datasets("prepare", "pc459")
    assert status == 1 and "2008_000002.mat' cannot be read" in out and "no matrix 'LabelMap' in it" in out


def test_broken_outlines(context, datasets):
    write_merged(context)
    path = context / "trainval_merged.json"
    content = json.loads(path.read_text())
    for broken in ({"size": "x"}, {"size": [12, 16], "counts": "ooo"}, {"size": [12, 17], "counts": [204]}, None):
        content["annos_segmentation"][0]["segmentation"] = broken
        path.write_text(json.dumps(content))
        status, out, _ = datasets("prepare", "pc59")
        assert status == 1 and "broken outlines of '2008_000002'" in out and "pc59_val: 1 images" in out
    path.write_text("{")
    assert "trainval_merged.json' cannot be read" in datasets("prepare", "pc60")[2]


def test_the_59_are_in_the_order_of_the_alphabet():
    names = Vocabulary.parse("pc59").names
    assert len(NUMBERS_59) == 59 and list(NUMBERS_59) == sorted(NUMBERS_59)
    ordered = [names[place].replace(" ", "") for place in places_59(False)]
    assert ordered == sorted(ordered) and [ordered[i] for i in (0, 1, 39, 49, 54, 58)] == [
        "aeroplane",
        "bag",
        "pottedplant",
        "table",
        "tvmonitor",
        "wood",
    ]
    assert [NUMBERS_59[i] for i in (0, 1, 39, 49, 54, 58)] == [2, 9, 308, 397, 427, 458]
    assert places_59(True) == [place + 1 for place in places_59(False)]
