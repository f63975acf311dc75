"""Cityscapes in folders of cities, and Mapillary Vistas with the classes of its own config, from 8 or 16 bits."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ovseg.data.registration import read_dataset
from tests.data.benchmarks.conftest import labels_of, save_image, save_labels, stored, stripes


@pytest.mark.parametrize(("kind", "values"), [("labelIds", (0, 7, 33, 255)), ("labelTrainIds", (255, 0, 18, 255))])
def test_cityscapes(root, expect, datasets, kind, values):
    expect("cityscapes", 2)
    for city in ("frankfurt", "munster"):
        stem = f"{city}/{city}_000000_000294"
        save_image(root / f"cityscapes/leftImg8bit/val/{stem}_leftImg8bit.png")
        save_labels(root / f"cityscapes/gtFine/val/{stem}_gtFine_{kind}.png", stripes(*values))
        save_labels(root / f"cityscapes/gtFine/val/{stem}_gtFine_instanceIds.png", stripes(*values))
    status, out, err = datasets("prepare", "cityscapes")
    assert (status, err) == (0, "") and "2 images, 2 of 19 classes occur" in out
    dataset = read_dataset("cityscapes_fine_sem_seg_val")
    assert labels_of(dataset) == [-1, 0, 18, -1] and dataset.records[0]["image_id"].startswith("frankfurt/frankfurt")
    assert dataset.classes[0].name == "road" and dataset.classes[18].name == "bicycle"


def write_config(folder, name="config_v1.2.json", count=66):
    folder.mkdir(parents=True, exist_ok=True)
    labels = [{"readable": f"Kind {i}", "instances": i % 2 == 0, "evaluate": i < count - 1} for i in range(count)]
    (folder / name).write_text(json.dumps({"labels": labels}))


@pytest.mark.parametrize(
    ("folder", "labels", "config"),
    [
        ("mapillary_vistas", "validation/v1.2/labels", "config_v1.2.json"),
        ("mapillary", "validation/v1.2/labels", "config_v1.2.json"),
        ("mapillary_vistas", "validation/labels", "config.json"),
        ("mapillary_vistas", "validation/v1.2/instances", "config_v1.2.json"),
    ],
)
def test_mapillary(root, expect, datasets, folder, labels, config):
    for name in ("mapillary65", "mapillary66"):
        expect(name, 1)
    write_config(root / folder, config)
    save_image(root / folder / "validation/images/a.jpg")
    values = stripes(65, 0, 33, 64, dtype=np.uint16 if "instances" in labels else np.uint8)
    save_labels(root / folder / labels / "a.png", values * 256 + 3 if "instances" in labels else values)
    assert datasets("prepare", "mapillary65", "mapillary66")[0] == 0
    dataset = read_dataset("mapillary65_val")
    assert labels_of(dataset) == [-1, 0, 33, 64] and stored(dataset)[0] == "uint8"
    assert dataset.classes[0].name == "kind 0" and [one.is_thing for one in dataset.classes][:3] == [True, False, True]
    assert labels_of(read_dataset("mapillary66_val")) == [65, 0, 33, 64]


def test_mapillary_faults(root, expect, datasets):
    expect("mapillary65", 1)
    folder = root / "mapillary_vistas"
    save_image(folder / "validation/images/a.jpg")
    save_labels(folder / "validation/v1.2/instances/a.png", stripes(1, 2, 3, 4))
    status, _, err = datasets("prepare", "mapillary65")
    assert status == 2 and "config_v1.2.json' is missing; fetch Mapillary Vistas" in err
    write_config(folder, count=124)
    assert "is not the config of Mapillary Vistas 1.2 (124 labels)" in datasets("prepare", "mapillary65")[2]
    write_config(folder)
    status, out, _ = datasets("prepare", "mapillary65")
    assert status == 1 and "is no 16-bit image of class * 256 + instance" in out
