"""ADE20K: labels count from 1, both layouts, and whatever can be wrong with a tree."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from ovseg.data.registration import read_dataset
from tests.data.benchmarks.conftest import save_image, save_labels, stripes


@pytest.fixture(params=["ADEChallengeData2016", "ade/ADEChallengeData2016"])
def ade(root, request, expect):
    expect("ade150", 3)
    folder = root / request.param
    for i in range(3):
        save_image(folder / f"images/validation/ADE_val_{i:08d}.jpg", seed=i)
        save_labels(folder / f"annotations/validation/ADE_val_{i:08d}.png", stripes(0, 1, 150, 13 + i))
    return folder


def labels_of(dataset, index=0):
    record = dataset.records[index]
    return dataset.read_segments(record, (12, 16)).semantic()[0, ::4].tolist()


def test_a_whole_tree(ade, root, datasets):
    status, out, err = datasets("prepare", "ade150")
    assert (status, err) == (0, "") and "ade150_val: 3 images, 5 of 150 classes occur" in out
    manifest = json.loads((root / "ovseg/ade150_val/manifest.json").read_text())
    assert manifest["complete"] and manifest["images"] == 3 and manifest["problems"] == [] and manifest["void"] == 255
    assert len(manifest["files"]) == 3 and set(manifest["versions"]) == {"ovseg", "numpy", "pillow"}
    dataset = read_dataset("ade150_val")
    assert labels_of(dataset) == [-1, 0, 149, 12]
    raw = np.asarray(Image.open(dataset.records[0]["sem_seg_file_name"]))
    assert raw.dtype == np.uint8 and raw[0, ::4].tolist() == [255, 0, 149, 12]
    assert datasets("prepare", "ade150", "--check-only")[0] == 0
    status, out, _ = datasets("status", "--json")
    states = {row["name"]: row for row in json.loads(out)}
    assert status == 0 and states["ade150_val"]["state"] == "ready" and states["ade150_train"]["state"] == "missing"
    assert datasets("show", "ade150_val", "--output", "x.png")[0] == 0
    assert datasets("check", "ade20k_sem_seg_val")[0] == 0
