"""PhraseCut and MVTec AD: each image brings its own words and masks, which may overlap."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image, ImageDraw

from ovseg.data.dataset import draw_outline
from ovseg.data.registration import read_dataset
from tests.data.benchmarks.conftest import save_image, save_labels, stripes

LEFT, RIGHT = [[0, 0], [3, 0], [3, 11], [0, 11]], [[12.7, 0], [15, 0], [15, 11], [12.7, 11]]


def task(image, phrase, *instances):
    return {"task_id": f"{image}__1", "image_id": image, "phrase": phrase, "Polygons": [list(one) for one in instances]}


@pytest.fixture
def phrasecut(root, expect):
    expect("phrasecut", 2)
    folder = root / "VGPhraseCut_v0"
    save_image(folder / "VG_100K/1.jpg")
    save_image(folder / "VG_100K_2/2.jpg")
    sizes = [{"image_id": i, "height": 12, "width": 16, "split": "val"} for i in (1, 2)]
    (folder / "image_data_split3000.json").write_text(json.dumps(sizes))
    tasks = [
        task(1, "wall on the left", [LEFT]),
        task(1, "both walls", [LEFT], [RIGHT]),
        task(2, "Both Walls", [LEFT, RIGHT]),
    ]
    (folder / "refer_val.json").write_text(json.dumps(tasks))
    return folder


def masks(dataset, index):
    record = dataset.records[index]
    return [draw_outline(record, one, (12, 16))[0].astype(int).tolist() for one in record["annotations"]]


def test_phrasecut(phrasecut, datasets):
    status, out, err = datasets("prepare", "phrasecut")
    assert (status, err) == (0, "") and "2 images, 2 of 2 classes occur" in out
    dataset = read_dataset("phrasecut_val")
    assert dataset.kind == "prompts" and dataset.classes.names == ["wall on the left", "both walls"]
    left, right = [1] * 4 + [0] * 12, [0] * 12 + [1] * 4  # corners are cut to whole pixels, edges included
    assert masks(dataset, 0) == [left, [a + b for a, b in zip(left, right, strict=True)]]
    assert [one["category_id"] for one in dataset.records[1]["annotations"]] == [1]
    assert datasets("check", "phrasecut_val")[0] == 0
    assert datasets("show", "phrasecut_val", "--output", "x.png")[0] == 0


def test_outlines_are_drawn_as_phrasecut_draws_them(phrasecut):
    """Against the published way: one picture a polygon, integer corners, added up."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        polygons = [(rng.random((5, 2)) * [16, 12]).tolist() for _ in range(3)] + [[[1, 2]]]
        wanted = np.zeros((12, 16), bool)
        for polygon in polygons[:3]:
            picture = Image.new("L", (16, 12), 0)
            ImageDraw.Draw(picture).polygon([(int(x), int(y)) for x, y in polygon], outline=1, fill=1)
            wanted |= np.asarray(picture) > 0
        record = {"file_name": "a.jpg", "height": 12, "width": 16}
        assert (draw_outline(record, {"corners": polygons}, (12, 16)) == wanted).all()


def test_phrasecut_faults(phrasecut, datasets):
    save_image(phrasecut / "VG_100K_2/2.jpg", (12, 20))
    status, out, _ = datasets("prepare", "phrasecut")
    assert status == 1 and "is 20x12 pixels, its JSON says 16x12" in out
    assert [record["image_id"] for record in read_dataset("phrasecut_val").records] == [1]
    shutil.rmtree(phrasecut / "VG_100K_2")
    assert "2.jpg' is missing; unpack both parts" in datasets("prepare", "phrasecut")[1]
    (phrasecut / "image_data_split3000.json").write_text("[]")
    assert "has no size of image 1" in datasets("prepare", "phrasecut")[1]
    (phrasecut / "refer_val.json").write_text('[{"image_id": 1}]')
    assert "key 'phrase' is missing" in datasets("prepare", "phrasecut")[2]
    (phrasecut / "refer_val.json").unlink()
    err = datasets("prepare", "phrasecut", "--check-only")[2]
    assert "refer_val.json' is missing" in err and "download_dataset.py" in err and "(only you may)" in err


@pytest.fixture
def mvtec(root, expect):
    expect("mvtec", 2)
    folder = root / "mvtec_anomaly_detection"
    for kind in ("bottle", "metal_nut"):
        for damage in ("good", "broken_large"):
            save_image(folder / kind / "test" / damage / "000.png")
        save_labels(folder / kind / "ground_truth/broken_large/000_mask.png", stripes(0, 255, 0, 255))
    return folder


def test_mvtec(mvtec, datasets):
    status, out, err = datasets("prepare", "mvtec_bottle", "mvtec_metal_nut")
    assert (status, err) == (0, "") and "mvtec_metal_nut: 2 images, 1 of 1 classes occur" in out
    dataset = read_dataset("mvtec_metal_nut")
    assert dataset.kind == "prompts" and dataset.classes.names == ["damage on a metal nut"]
    assert [record["image_id"] for record in dataset.records] == ["metal_nut/broken_large/000", "metal_nut/good/000"]
    assert masks(dataset, 0)[0][::4] == [0, 1, 0, 1] and not any(masks(dataset, 1)[0])


def test_mvtec_faults(mvtec, root, datasets):
    save_labels(mvtec / "bottle/ground_truth/broken_large/000_mask.png", stripes(0, 255, 0, 255, size=(12, 20)))
    assert "expected equal sizes, unpack the archive again" in datasets("prepare", "mvtec_bottle")[1]
    (mvtec / "bottle/ground_truth/broken_large/000_mask.png").unlink()
    save_labels(mvtec / "bottle/ground_truth/broken_large/001_mask.png", stripes(0, 255, 0, 255))
    status, out, _ = datasets("prepare", "mvtec_bottle")
    assert status == 1 and "000_mask.png' is missing; unpack the archive again" in out
    shutil.rmtree(mvtec / "bottle/ground_truth")
    err = datasets("prepare", "mvtec_bottle", "--check-only")[2]
    assert f"'{mvtec}/bottle/ground_truth/" in err and "put mvtec_anomaly_detection.tar.xz in" in err


def test_the_counts_of_mvtec_are_those_of_the_paper():
    from ovseg.data.benchmarks.mvtec import COUNTS

    assert [sum(column) for column in zip(*COUNTS.values(), strict=True)] == [467, 1258] and len(COUNTS) == 15
