"""LVIS: names and frequencies from its own file, photographs of both of COCO's folders."""

from __future__ import annotations

import json

import pytest

from ovseg.data.registration import read_dataset
from ovseg.vocabulary import Vocabulary
from tests.data.benchmarks.conftest import labels_of, save_image

BOX = [[0, 0, 4, 0, 4, 12, 0, 12]]


def categories():
    found = [
        {"id": i + 1, "name": f"thing_{i}", "synonyms": [f"thing_{i}"], "frequency": "rcf"[i % 3]} for i in range(1203)
    ]
    found[0] |= {"name": "bow_(weapon)", "synonyms": ["bow_(weapon)", "bow"]}
    found[1] |= {"name": "bow_(decorative_ribbons)", "synonyms": ["bow_(decorative_ribbons)", "bow"]}
    return found


def write_annotations(path):
    images, annotations = [], []
    for i, name in enumerate(("train2017/000000000001", "val2017/000000000002")):
        address = f"http://images.cocodataset.org/{name}.jpg"
        images.append({"id": i + 1, "coco_url": address, "height": 12, "width": 16})
        shifted = [[x + 4 if place % 2 == 0 else x for place, x in enumerate(BOX[0])]]
        for number, (category, outline) in enumerate(((1, BOX), (1203, shifted))):
            one = {"id": 10 * i + number + 1, "image_id": i + 1, "category_id": category}
            annotations.append({**one, "segmentation": outline, "area": 48, "bbox": [0, 0, 4, 12]})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories()}))


@pytest.fixture(params=["coco", "lvis_v1"])
def lvis(root, expect, request):
    """Miniatures in the layouts of Detectron2 and of mmdetection."""
    expect("lvis", 2)
    save_image(root / request.param / "train2017/000000000001.jpg")
    save_image(root / request.param / "val2017/000000000002.jpg")
    path = root / ("lvis" if request.param == "coco" else "lvis_v1/annotations") / "lvis_v1_val.json"
    write_annotations(path)
    return path


def test_lvis(lvis, root, datasets):
    status, out, _ = datasets("prepare", "lvis")
    assert status == 0 and "2 images, 2 of 1203 classes occur" in out
    dataset = read_dataset("lvis_v1_val")
    assert dataset.kind == "instance" and labels_of(dataset, 1) == [0, 1202, -1, -1]
    assert dataset.classes[0].names == ("bow (weapon)", "bow") and dataset.classes[2].name == "thing 2"
    assert dataset.classes[1].names == ("bow (decorative ribbons)",)
    assert dataset.records[0]["file_name"].endswith("train2017/000000000001.jpg")
    rare = Vocabulary.parse(root / "ovseg/lvis_val/rare.json")
    assert len(rare) == 401 and rare.names[:2] == ["bow (weapon)", "thing 3"]
    assert set(rare.names) <= set(dataset.classes.names)
    assert datasets("prepare", "lvis", "--check-only")[0] == 0


def test_what_is_missing_is_named(lvis, root, datasets):
    (root / "coco/val2017/000000000002.jpg" if "lvis_v1/" not in str(lvis) else lvis).unlink()
    status, out, err = datasets("prepare", "lvis", "--check-only")
    assert status and ("lvis_v1_val.json' is missing" in err or "not prepared" in out)
    if "lvis_v1/" not in str(lvis):
        status, out, _ = datasets("prepare", "lvis")
        assert status == 1 and "000000000002.jpg' is missing" in out
        (root / "coco/val2017").rmdir()
        err = datasets("prepare", "lvis", "--check-only")[2]
        assert f"'{root}/coco/val2017' is missing" in err and "val2017.zip" in err and f"in '{root}/coco'" in err


def test_another_release(lvis, datasets):
    content = json.loads(lvis.read_text())
    lvis.write_text(json.dumps({**content, "categories": content["categories"][:830]}))
    assert "lists 830 categories; expected the 1203 of LVIS v1" in datasets("prepare", "lvis")[2]
    lvis.write_text("{")
    assert "cannot be read" in datasets("prepare", "lvis")[2]
