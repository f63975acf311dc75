"""ADE20K: 150 classes that count from 1, and 847 from colours, in 16 bits, with names of the data set's own index."""

from __future__ import annotations

import json
import pickle
from collections import OrderedDict

import numpy as np
import pytest
from PIL import Image

from ovseg.data.benchmarks.ade import NUMBERS_847
from ovseg.data.benchmarks.names import distinct
from ovseg.data.registration import read_dataset
from tests.data.benchmarks.conftest import labels_of, save_image, save_labels, stored, stripes


@pytest.mark.parametrize("place", ["ADEChallengeData2016", "ade/ADEChallengeData2016"])
def test_150(root, expect, datasets, place):
    expect("ade150", 3)
    for i in range(3):
        save_image(root / place / f"images/validation/ADE_val_{i:08d}.jpg", seed=i)
        save_labels(root / place / f"annotations/validation/ADE_val_{i:08d}.png", stripes(0, 1, 150, 13 + i))
    status, out, err = datasets("prepare", "ade150")
    assert (status, err) == (0, "") and "ade150_val: 3 images, 5 of 150 classes occur" in out
    manifest = json.loads((root / "ovseg/ade150_val/manifest.json").read_text())
    assert manifest["complete"] and manifest["images"] == 3 and manifest["problems"] == [] and manifest["void"] == 255
    assert len(manifest["files"]) == 3 and set(manifest["versions"]) == {"ovseg", "numpy", "pillow"}
    assert labels_of(read_dataset("ade150_val")) == [-1, 0, 149, 12]
    assert stored(read_dataset("ade20k_sem_seg_val")) == ("uint8", [255, 0, 149, 12])


def test_150_of_another_tool(root, expect, datasets):
    """Detectron2's conversion has class ids already; it needs no second one and can be read at once."""
    expect("ade150", 1)
    save_image(root / "ADEChallengeData2016/images/validation/a.jpg")
    save_labels(root / "ADEChallengeData2016/annotations_detectron2/validation/a.png", stripes(255, 0, 149, 12))
    assert labels_of(read_dataset("ade150_val")) == [-1, 0, 149, 12]
    assert datasets("prepare", "ade150")[0] == 0 and not (root / "ovseg/ade150_val/labels").exists()
    assert labels_of(read_dataset("ade150_val")) == [-1, 0, 149, 12]


def color_of(number: int) -> tuple[int, int, int]:
    """Return a colour of the full release: the number, and an instance in blue."""
    return number // 256 * 10, number % 256, 7


@pytest.fixture
def full(root, expect):
    """A miniature of the full release; stripes: nothing, wall, class 846, a part that is none of the 847."""
    expect("ade847", 2)
    folder = root / "ADE20K_2021_17_01"
    names = [f"object {i}, thing {i}" for i in range(1, 3689)]
    names[2977], names[311], names[2419], names[2131] = "wall", "building, edifice", "sky", "wall, edifice"
    colors = np.array([(0, 0, 0), color_of(2978), color_of(3148), color_of(1)], np.uint8)
    for i in range(2):
        stem = folder / f"images/ADE/validation/urban/street/ADE_val_{i:08d}"
        save_image(stem.with_suffix(".jpg"), seed=i)
        Image.fromarray(colors[np.repeat(np.arange(4), 4)][None].repeat(12, 0)).save(f"{stem}_seg.png")
        Image.fromarray(np.zeros((12, 16, 3), np.uint8)).save(f"{stem}_parts_1.png")
    index = {"objectnames": names, "objectPresence": np.zeros((3, 2)), "filename": ["a"]}
    (folder / "index_ade20k.pkl").write_bytes(pickle.dumps(index))
    return folder


def test_847(full, root, datasets):
    status, out, err = datasets("prepare", "ade847")
    assert (status, err) == (0, "") and "2 images, 2 of 847 classes occur" in out
    dataset = read_dataset("ade847_val")
    assert labels_of(dataset) == [-1, 0, 846, -1] and stored(dataset) == ("uint16", [65535, 0, 846, 65535])
    assert dataset.ignore_label == 65535 and dataset.records[0]["image_id"] == "urban/street/ADE_val_00000000"
    assert dataset.classes[0].name == "wall" and dataset.classes[1].names == ("building", "edifice")
    classes = json.loads((root / "ovseg/ade847_val/classes.json").read_text())
    assert len(classes) == 847 and classes[1] == {"name": "building", "synonyms": ["edifice"], "is_thing": True}


def test_847_of_another_tool(full, expect):
    """What MaskFormer's script leaves: smaller copies, 16-bit TIFF."""
    expect("ade847", 1)
    (full / "images").rename(full / "elsewhere")
    save_image(full / "images_detectron2/validation/a.jpg")
    save_labels(full / "annotations_detectron2/validation/a.tif", stripes(65535, 0, 846, 255, dtype=np.uint16))
    assert labels_of(read_dataset("ade847_val")) == [-1, 0, 846, 255]


@pytest.mark.parametrize("content", [b"", b"junk", pickle.dumps({"names": []}), pickle.dumps(OrderedDict(a=1))])
def test_a_bad_index_is_refused(full, datasets, content):
    (full / "index_ade20k.pkl").write_bytes(content)
    status, _, err = datasets("prepare", "ade847")
    assert status == 2 and "index_ade20k.pkl' cannot be read" in err and err.count("\n") == 1


def test_the_index_of_another_release(full, datasets):
    (full / "index_ade20k.pkl").write_bytes(pickle.dumps({"objectnames": ["a", "b"]}))
    assert "lists 2 objects that are not those of ADE20K_2021_17_01" in datasets("prepare", "ade847")[2]


def test_the_numbers():
    assert len(NUMBERS_847) == len(set(NUMBERS_847)) == 847 and NUMBERS_847[:3] == [2978, 312, 2420]
    assert min(NUMBERS_847) >= 1 and max(NUMBERS_847) < 3688


def test_names_stand_once():
    classes = [["bag"], ["bag", " handbag"], ["Handbag", "bag"], ["screen", "blind"], ["blind"], ["BAG"]]
    assert distinct(classes) == [["bag"], ["handbag"], ["Handbag 2"], ["screen"], ["blind"], ["BAG 2"]]
