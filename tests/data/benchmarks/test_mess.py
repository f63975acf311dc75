"""The domains of MESS: every script runs on a miniature of the published layout."""

from __future__ import annotations

import json
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovseg.data.benchmarks import BENCHMARKS, labels, tiles
from ovseg.data.benchmarks.mess.science import ANNOTATOR
from ovseg.data.registration import read_dataset
from tests.data.benchmarks.conftest import labels_of, save_image, save_labels, stored, stripes

Tree = dict[str, np.ndarray | None]


def colours(*values: tuple[int, int, int], size: tuple[int, int] = (12, 16)) -> np.ndarray:
    return np.repeat(np.array(values, np.uint8), size[1] // len(values), axis=0)[None].repeat(size[0], 0)


def pairs(images: str, found: str, values: np.ndarray, stems: tuple[str, ...] = ("a", "b")) -> Tree:
    """Return images (None) and labels of a miniature."""
    return {images.format(s): None for s in stems} | {found.format(s): values for s in stems}


BINARY = stripes(0, 255, 255, 0)
NIGHT = "Dark_Zurich/{}/val/night/GOPR0356/{{}}_{}.png"
BIRDS = ("001.Black_footed_Albatross/x", "200.Common_Yellowthroat/y")
TREES: dict[str, tuple[Tree, list[int]]] = {
    "bdd100k": (
        pairs("bdd100k/images/10k/val/{}.jpg", "bdd100k/labels/sem_seg/masks/val/{}.png", stripes(0, 18, 255, 5)),
        [0, 18, -1, 5],
    ),
    "dark_zurich": (
        pairs(NIGHT.format("rgb_anon", "rgb_anon"), NIGHT.format("gt", "gt_labelIds"), stripes(0, 7, 33, 7))
        | {NIGHT.format("gt", "gt_invGray").format(s): stripes(0, 0, 0, 255) for s in "ab"},
        [0, 1, 19, -1],
    ),
    "mhp_v1": (
        pairs("LV-MHP-v1/images/{}.jpg", "LV-MHP-v1/annotations/{}_02_01.png", stripes(0, 3, 0, 18), ("0001", "0002"))
        | {f"LV-MHP-v1/annotations/{s}_02_02.png": stripes(0, 1, 5, 0) for s in ("0001", "0002")},
        [0, 3, 5, 18],
    ),
    "foodseg103": (
        pairs("FoodSeg103/Images/img_dir/test/{}.jpg", "FoodSeg103/Images/ann_dir/test/{}.png", stripes(0, 1, 103, 50)),
        [0, 1, 103, 50],
    ),
    "atlantis": (
        pairs("atlantis/images/test/{}.jpg", "atlantis/masks/test/{}.png", stripes(0, 1, 56, 2), ("sea/1", "river/2")),
        [-1, 0, 55, 1],
    ),
    "dram": (
        pairs(
            "DRAM_processed/test/{}.jpg", "DRAM_processed/labels/{}.png", stripes(0, 3, 17, 255), ("realism/x/1", "y/1")
        ),
        [11, 0, 10, -1],
    ),
    "kvasir_instrument": (
        pairs(
            "kvasir-instrument/images/{}.jpg",
            "kvasir-instrument/masks/{}.png",
            colours((0, 0, 0), (255, 255, 255), (254, 254, 254), (255, 255, 255)),
        ),
        [0, 1, 0, 1],
    ),
    "chase_db1": (
        pairs(
            "CHASEDB1/{}.jpg",
            "CHASEDB1/{}_1stHO.png",
            BINARY > 0,
            tuple(f"Image_{number:02}{side}" for number in range(1, 6) for side in "LR"),
        ),
        [0, 1, 1, 0],
    ),
    "cryonuseg": (
        pairs("CryoNuSeg/tissue images/{}.tif", f"CryoNuSeg/{ANNOTATOR}/{ANNOTATOR}/mask binary/{{}}.png", BINARY),
        [0, 1, 1, 0],
    ),
    "corrosion_cs": (
        pairs(
            "Corrosion Condition State Classification/original/Test/images/{}.jpeg",
            "Corrosion Condition State Classification/original/Test/masks/{}.png",
            stripes(0, 1, 2, 3),
        ),
        [0, 1, 2, 3],
    ),
    "deepcrack": (pairs("DeepCrack/test_img/{}.jpg", "DeepCrack/test_lab/{}.png", BINARY), [0, 1, 1, 0]),
    "pst900": (
        pairs("PST900_RGBT_Dataset/test/thermal/{}.png", "PST900_RGBT_Dataset/test/labels/{}.png", stripes(0, 1, 4, 2)),
        [0, 1, 4, 2],
    ),
    "zerowaste": (
        pairs(
            "zerowaste-f/splits_final_deblurred/test/data/{}.PNG",
            "zerowaste-f/splits_final_deblurred/test/sem_seg/{}.PNG",
            stripes(0, 1, 4, 2),
        ),
        [0, 1, 4, 2],
    ),
    "suim": (
        pairs(
            "SUIM/TEST/images/{}.jpg",
            "SUIM/TEST/masks/{}.bmp",
            colours((0, 0, 0), (0, 0, 255), (255, 255, 0), (255, 255, 255)),
        ),
        [0, 1, 6, 7],
    ),
    "worldfloods": (
        pairs(
            "WorldFloods/images_detectron2/test/irrg/{}.png",
            "WorldFloods/annotations_detectron2/test/{}.png",
            stripes(0, 1, 2, 255),
        ),
        [0, 1, 2, -1],
    ),
    "cub_200": (
        pairs("CUB_200_2011/images/{}.jpg", "CUB_200_2011/segmentations/{}.png", stripes(0, 129, 128, 255), BIRDS),
        [0, 1, 0, 1],
    ),
    "cwfid": (
        pairs(
            "cwfid/images/{}_image.png",
            "cwfid/annotations/{}_annotation.png",
            colours((0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 0)),
            ("001", "002", "003"),
        ),
        [0, 1, 2, 0],
    ),
}
TEXTS = {
    "mhp_v1": {"LV-MHP-v1/test_list.txt": "0001.jpg\n0002.jpg\n"},
    "kvasir_instrument": {"kvasir-instrument/test.txt": "a\nb\n"},
    "cub_200": {
        "CUB_200_2011/classes.txt": "".join(
            f"{i} {i:03}.{'Black_footed_Albatross' if i == 1 else f'Kind_{i}'}\n" for i in range(1, 201)
        ),
        "CUB_200_2011/images.txt": "".join(f"{i} {stem}.jpg\n" for i, stem in enumerate((*BIRDS, "002.x/z"), 1)),
        "CUB_200_2011/train_test_split.txt": "1 0\n2 0\n3 1\n",
    },
}


def build(root: Path, name: str) -> None:
    for path, values in TREES[name][0].items():
        save_image(root / path) if values is None else save_labels(root / path, values)
    for path, text in TEXTS.get(name, {}).items():
        (root / path).write_text(text)


@pytest.mark.parametrize("name", sorted(TREES))
def test_every_script_runs(root, expect, datasets, name):
    expect(name, 2)
    build(root, name)
    status, out, _ = datasets("prepare", name)
    split = next(iter(BENCHMARKS[name].splits))
    if name != "cwfid":
        assert (status, "2 images" in out) == (0, True), out
        assert datasets("prepare", name, "--check-only")[0] == 0
    dataset = read_dataset(f"{name}_sem_seg_{split}")
    assert labels_of(dataset) == TREES[name][1]
    assert dataset.classes[max(TREES[name][1])].name
    if name == "cub_200":
        assert labels_of(dataset, 1) == [0, 200, 0, 200] and dataset.classes[1].name == "Black footed Albatross"
    if name == "chase_db1":
        assert [record["image_id"] for record in dataset.records] == ["Image_05L", "Image_05R"]


@pytest.mark.parametrize("name", sorted(TREES))
def test_a_tree_without_labels_is_named(root, expect, datasets, name):
    expect(name, 2)
    build(root, name)
    for path, values in TREES[name][0].items():
        if values is not None:
            (root / path).unlink()
    err = datasets("prepare", name, "--check-only")[2]
    assert err.count("\n") == 1 and "is missing; " in err, err
    lines = [f"downloads {s.url}" if s.url else f"from {s.page} (only you may)" for s in BENCHMARKS[name].sources]
    assert any(line in err for line in lines)


def test_fixed_lists_name_what_is_missing(root, expect, datasets):
    expect("cwfid", 2)
    build(root, "cwfid")
    status, out, _ = datasets("prepare", "cwfid")
    assert status == 1 and "cwfid_test: 2 images" in out and "002" not in out
    assert out.count("is missing") == 20 and out.count("and 9 more of this kind") == 2  # images and labels


def test_broken_labels_of_every_rule(root, expect, datasets):
    for name in ("suim", "deepcrack", "mhp_v1", "cub_200"):
        expect(name, 2)
        build(root, name)
    save_labels(root / "SUIM/TEST/masks/a.bmp", colours((0, 0, 0), (0, 0, 254), (0, 0, 0), (0, 0, 0)))
    assert "a.bmp' shows the colour (0, 0, 254); expected one of the 8 of suim" in datasets("prepare", "suim")[1]
    (root / "DeepCrack/test_lab/a.png").write_bytes(b"junk")
    assert "a.png' cannot be read" in datasets("prepare", "deepcrack")[1]
    (root / "LV-MHP-v1/annotations/0001_02_01.png").unlink()
    (root / "LV-MHP-v1/annotations/0001_02_02.png").unlink()
    assert "0001_*.png' are missing" in datasets("prepare", "mhp_v1")[1]
    (root / "CUB_200_2011/classes.txt").write_text("1 001.a\n")
    assert "lists 1 classes; expected 1 to 200" in datasets("prepare", "cub_200")[2]
    build(root, "cub_200")
    (root / "CUB_200_2011/train_test_split.txt").write_text("junk\n")
    assert "train_test_split.txt' cannot be read" in datasets("prepare", "cub_200")[2]


@pytest.fixture
def xray(root, expect):
    expect("paxray", 2)
    folder = root / "paxray_dataset"
    (folder / "labels").mkdir(parents=True)
    entries = []
    for stem in ("x", "y"):
        save_image(folder / f"images/{stem}.png")
        masks = np.zeros((166, 12, 16), bool)
        masks[0, :, 4:8], masks[24, :, 4:] = True, True
        np.save(folder / f"labels/{stem}.npy", masks)
        entries.append({"image": f"images/{stem}.png", "target": f"labels/{stem}.npy"})
    (folder / "paxray.json").write_text(json.dumps({"test": entries, "train": []}))
    return folder


def test_paxray(xray, datasets):
    status, out, _ = datasets("prepare", "paxray", "paxray_test_bones")
    assert status == 0 and "paxray_test_bones: 2 images, 2 of 2 classes occur" in out
    assert labels_of(read_dataset("paxray_test_lungs")) == [0, 1, 0, 0]
    bones = read_dataset("paxray_sem_seg_test_bones")
    assert labels_of(bones) == [0, 1, 1, 1] and bones.classes.names == ["others", "bones"]
    (xray / "labels/x.npy").write_bytes(b"junk")
    assert "x.npy' cannot be read" in datasets("prepare", "paxray_test_diaphragm")[1]
    (xray / "paxray.json").write_text("{}")
    assert "paxray.json' cannot be read" in datasets("prepare", "paxray")[2]


FLOOD = "FloodNet-Supervised_v1.0/test/test-org-img/{}.jpg", "FloodNet-Supervised_v1.0/test/test-label-img/{}_lab.png"
TILED = {
    "floodnet": (pairs(*FLOOD, stripes(0, 1, 9, 5)), [0, 1, 9, 5]),
    "isaid": (
        pairs(
            "isaid/val/images/{}.png",
            "isaid/raw_val/images/{}_instance_color_RGB.png",
            colours((0, 0, 0), (0, 0, 63), (0, 100, 155), (0, 127, 255)),
        ),
        [0, 1, 15, 14],
    ),
    "isprs_potsdam": (
        pairs(
            "ISPRS_Potsdam/3_Ortho_IRRG/top_potsdam_{}_IRRG.tif",
            "ISPRS_Potsdam/Labels/top_potsdam_{}_label.tif",
            colours((255, 255, 255), (0, 3, 250), (255, 255, 0), (255, 0, 0)),
            ("2_13", "7_13"),
        ),
        [0, 1, 4, 5],
    ),
    "uavid": (
        pairs(
            "uavid_v1.5/uavid_val/seq16/Images/{}.png",
            "uavid_v1.5/uavid_val/seq16/Labels/{}.png",
            colours((0, 0, 0), (128, 0, 0), (64, 64, 0), (192, 0, 192)),
        ),
        [0, 1, 7, 6],
    ),
}


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(tiles, "SIDE", 12)


@pytest.mark.parametrize("name", sorted(TILED))
def test_large_photographs_are_cut(root, expect, datasets, small_tiles, name):
    """Of 16x12 pixels, tiles of 12: the second one has four columns, the rest is black and void."""
    expect(name, 4)
    for path, values in TILED[name][0].items():
        save_image(root / path) if values is None else save_labels(root / path, values)
    status, out, _ = datasets("prepare", name)
    assert status == (1 if name == "isprs_potsdam" else 0) and "4 images" in out, out
    split = next(iter(BENCHMARKS[name].splits))
    dataset = read_dataset(f"{name}_{split}")
    ids = [dataset.read_segments(record, (12, 12)).semantic()[0].tolist() for record in dataset.records[:2]]
    expected = np.repeat(TILED[name][1], 4).tolist()
    assert ids == [expected[:12], expected[12:] + [-1] * 8]
    assert stored(dataset)[0] == "uint8"
    pixels = np.asarray(Image.open(dataset.records[1]["file_name"]))
    source = next(path for path, values in TILED[name][0].items() if values is None)
    whole = np.asarray(Image.open(root / source).convert("RGB"))
    assert (pixels[:, :4] == whole[:, 12:]).all() and not pixels[:, 4:].any()


def test_cutting_goes_on_after_a_kill(root, expect, datasets, small_tiles, monkeypatch):
    expect("floodnet", 4)
    for path, values in TILED["floodnet"][0].items():
        save_image(root / path) if values is None else save_labels(root / path, values)
    write, written = tiles.write_labels, []

    def die(path, ids, count):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path)
        write(path, ids, count)

    monkeypatch.setattr(tiles, "write_labels", die)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    assert datasets("prepare", "floodnet")[0] == 130
    assert "'floodnet_test' is not prepared" in datasets("check", "floodnet_test")[2]
    before = {path: path.stat().st_mtime_ns for path in written}
    monkeypatch.setattr(tiles, "write_labels", lambda path, *rest: (written.append(path), write(path, *rest)))
    assert datasets("prepare", "floodnet")[0] == 0 and len(set(written)) == len(written) == 4
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_faults_of_large_photographs(root, expect, datasets, small_tiles):
    expect("floodnet", 4)
    for path, values in TILED["floodnet"][0].items():
        save_image(root / path) if values is None else save_labels(root / path, values)
    save_labels(root / FLOOD[1].format("a"), stripes(0, 1, 9, 5, size=(12, 20)))
    (root / FLOOD[0].format("b")).write_bytes(b"junk")
    status, out, err = datasets("prepare", "floodnet")
    assert status == 1 and "is 20x12 pixels, the image 16x12" in out and "b.jpg' holds text, not an image" in out, (
        out + err
    )
    save_labels(root / FLOOD[1].format("a"), stripes(0, 1, 9, 5))
    assert "floodnet_test: 2 images" in datasets("prepare", "floodnet")[1]
    shutil.rmtree(root / "FloodNet-Supervised_v1.0/test/test-label-img")
    assert "put FloodNet-Supervised_v1.0.zip in" in datasets("prepare", "floodnet", "--check-only")[2]


def test_archives_within_archives(root, expect, datasets, tmp_path):
    """Kvasir's archive, put where the user is told to, holds two others."""
    expect("kvasir_instrument", 2)
    build(tmp_path / "build", "kvasir_instrument")
    folder = tmp_path / "build/kvasir-instrument"
    for name in ("images", "masks"):
        with tarfile.open(folder / f"{name}.tar.gz", "w:gz") as packed:
            packed.add(folder / name, name)
        shutil.rmtree(folder / name)
    (root / "downloads").mkdir()
    with zipfile.ZipFile(root / "downloads/kvasir-instrument.zip", "w") as packed:
        for path in folder.iterdir():
            packed.write(path, f"kvasir-instrument/{path.name}")
    assert datasets("prepare", "kvasir_instrument")[0] == 0
    assert labels_of(read_dataset("kvasir_instrument_test")) == [0, 1, 0, 1]


def test_a_broken_conversion_is_resumed(root, expect, datasets, monkeypatch):
    expect("deepcrack", 2)
    build(root, "deepcrack")
    write, written = labels.write_labels, []

    def die(path, ids, count):
        if written:
            raise KeyboardInterrupt
        written.append(path)
        write(path, ids, count)

    monkeypatch.setattr(labels, "write_labels", die)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    assert datasets("prepare", "deepcrack")[0] == 130
    monkeypatch.setattr(labels, "write_labels", lambda path, *rest: (written.append(path), write(path, *rest)))
    assert datasets("prepare", "deepcrack")[0] == 0 and len(set(written)) == len(written) == 2
