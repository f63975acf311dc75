"""OVCamo: a class for each image, from the lists of its publishers."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ovseg.data.benchmarks import labels
from ovseg.data.registration import read_dataset
from tests.data.benchmarks.conftest import labels_of, save_image, save_labels, stored, stripes


@pytest.fixture
def ovcamo(root, expect):
    expect("ovcamo", 2)
    folder = root / "ovcamo"
    folder.mkdir()
    classes = [("crab", "train"), ("bird", "test"), ("sea_horse", "test")]
    lists = [{"name": name, "split": split} for name, split in classes]
    (folder / "class_info.json").write_text(json.dumps(lists))
    samples = [("0", "sea_horse", "jpg"), ("1", "bird", "png"), ("2", "crab", "jpg")]
    entries = [
        {"unique_id": f"u{i}", "base_class": name, "image": f"COD10K/x.{suffix}", "mask": "COD10K/GT/x.png"}
        for i, name, suffix in samples
    ]
    (folder / "sample_info.json").write_text(json.dumps(entries))
    for i, _, suffix in samples[:2]:
        save_image(folder / f"test/image/u{i}.{suffix}")
        save_labels(folder / f"test/mask/u{i}.png", stripes(0, 255, 1, 0))
    return folder


def test_ovcamo(ovcamo, datasets):
    status, out, err = datasets("prepare", "ovcamo")
    assert (status, err) == (0, "") and "2 images, 3 of 3 classes occur" in out
    dataset = read_dataset("ovcamo_test")
    assert dataset.classes.names == ["background", "bird", "sea horse"]
    assert labels_of(dataset, 0) == [0, 2, 2, 0] and labels_of(dataset, 1) == [0, 1, 1, 0]
    assert stored(dataset) == ("uint8", [0, 2, 2, 0])


def test_ovcamo_goes_on_after_a_kill(ovcamo, datasets, monkeypatch):
    write, written = labels.write_labels, []

    def die(path, ids, count):
        if written:
            raise KeyboardInterrupt
        written.append(path)
        write(path, ids, count)

    monkeypatch.setattr(labels, "write_labels", die)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    assert datasets("prepare", "ovcamo")[0] == 130
    monkeypatch.setattr(labels, "write_labels", lambda path, *rest: (written.append(path), write(path, *rest)))
    assert datasets("prepare", "ovcamo")[0] == 0 and len(set(written)) == len(written) == 2


def test_ovcamo_faults(ovcamo, datasets):
    (ovcamo / "test/mask/u1.png").unlink()
    status, out, _ = datasets("prepare", "ovcamo")
    assert status == 1 and "u1.png' is missing" in out
    save_labels(ovcamo / "test/mask/u1.png", np.zeros((12, 20), np.uint8))
    assert "are 20x12 pixels, the image 16x12" in datasets("prepare", "ovcamo")[1]
    (ovcamo / "sample_info.json").write_text('[{"unique_id": "u0"}]')
    assert "expected a list of entries with base_class, image, mask, unique_id" in datasets("prepare", "ovcamo")[2]
    for path in (ovcamo / "test/mask").iterdir():
        path.unlink()
    err = datasets("prepare", "ovcamo", "--check-only")[2]
    assert "test/mask/*' is missing" in err and "put ovcamo_test.zip in" in err and "split_dataset.py" in err
