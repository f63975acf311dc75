"""Ids of the user's own list: in every COCO form and the JSON, in label maps on request."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovseg.cli import main
from ovseg.errors import ConfigError, InputError
from ovseg.result.files import finish_files, plan_files, write_files
from ovseg.result.formats import Place
from ovseg.result.formats.labels import read_label_png
from ovseg.result.objects import Instance, Panoptic, PanopticSegment
from ovseg.result.records import RecordFile
from ovseg.result.segmentation import Segmentation
from ovseg.vocabulary import Vocabulary

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:pycocotools")

NAMES = {7: "sand", 3: "water", 90: "sail_boat"}
LABELS = np.array([[0, 0, 1, 1], [0, 2, 2, -1], [2, 2, 2, -1]], np.int32)


@pytest.fixture
def categories(tmp_path: Path) -> Path:
    """Categories of a COCO file, whose ids are neither places nor sorted."""
    path = tmp_path / "coco.json"
    found = [{"id": own, "name": name, "supercategory": "beach"} for own, name in NAMES.items()]
    path.write_text(json.dumps({"images": [], "annotations": [], "categories": found}))
    return path


@pytest.fixture
def result(categories: Path) -> Segmentation:
    return make(Vocabulary.parse(categories))


def make(words: Vocabulary) -> Segmentation:
    boat = LABELS == 2
    return Segmentation.from_labels(
        LABELS,
        np.full(LABELS.shape, 0.5),
        words,
        np.zeros((*LABELS.shape, 3), np.uint8),
        {"image": "a.jpg"},
        Panoptic(boat.astype(np.int32) * 5, (PanopticSegment(5, 2, True, 0.5),)),
        (Instance.from_mask(boat, 2, 0.5),),
    )


def write_all(result: Segmentation, folder: Path, names: list[str]) -> None:
    records = RecordFile()
    records.add(write_files(result, Place(folder, "a", "a.jpg", folder / "a.jpg"), names))
    finish_files(records, result.classes, folder, names)


def test_coco_tools_read_the_categories_of_the_list(result: Segmentation, tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    write_all(result, tmp_path, ["coco-semantic", "coco-instance"])
    for name, found in (("coco-semantic", [7, 3, 90]), ("coco-instance", [90])):
        coco = COCO(tmp_path / f"{name}.json")
        assert {one["id"]: one["name"] for one in coco.loadCats(coco.getCatIds())} == NAMES
        assert [one["category_id"] for one in coco.loadAnns(coco.getAnnIds())] == found
        for one in coco.loadAnns(coco.getAnnIds()):
            place = [*NAMES].index(one["category_id"])
            assert np.array_equal(coco.annToMask(one).astype(bool), LABELS == place)


def test_panoptic_files_have_them(result: Segmentation, tmp_path: Path) -> None:
    write_all(result, tmp_path, ["coco-panoptic"])
    found = json.loads((tmp_path / "coco-panoptic.json").read_text())
    assert {one["id"]: one["name"] for one in found["categories"]} == NAMES
    assert [one["category_id"] for one in found["annotations"][0]["segments_info"]] == [90]


def test_json_has_them_and_says_what_the_label_map_holds(result: Segmentation) -> None:
    for own_ids, labels in ((False, [0, 1, 2]), (True, [7, 3, 90])):
        found = result.to_json(own_ids=own_ids)
        assert [(one["id"], one["name"]) for one in found["classes"]] == [*NAMES.items()]
        assert [one["label"] for one in found["classes"]] == labels
        assert [one["class_id"] for key in ("panoptic", "instances") for one in found[key]] == [90, 90]
    assert result.segments[2].class_id == 2  # in Python a class is its place in the list


def test_label_maps_have_them_on_request(result: Segmentation, tmp_path: Path) -> None:
    plain, own = result.save(tmp_path / "plain.png"), result.save(tmp_path / "own.png", own_ids=True)
    assert np.array_equal(read_label_png(plain), LABELS)
    assert np.array_equal(read_label_png(own, own_ids=True), np.array([7, 3, 90, -1])[LABELS])
    with Image.open(own) as image:
        assert np.asarray(image)[-1, -1] == 65535
    with pytest.raises(InputError, match="holds the ids of a list"):  # it must not pass for positions
        read_label_png(own)
    with pytest.raises(ConfigError, match="own_id"):
        result.save(tmp_path / "x.png", own_id=True)
    with pytest.raises(ConfigError, match="changes none of the formats overlay"):
        plan_files([tmp_path / "a.jpg"], tmp_path, ["overlay"], {"own_ids": True})


def test_an_archive_brings_them_back(result: Segmentation, tmp_path: Path) -> None:
    again = Segmentation.load(result.save(tmp_path / "a.npz"))
    assert again.classes.ids == [7, 3, 90] and again.to_coco() == result.to_coco()
    assert [one.class_id for one in again.instances or ()] == [2]


@pytest.mark.parametrize("source", ["sand, water, boat", "1: sand, 2: water, 3: boat", ["sand", "water", "boat"]])
def test_without_ids_categories_count_from_one(source: Any) -> None:
    assert [one["id"] for one in make(Vocabulary.parse(source)).to_coco()["categories"]] == [1, 2, 3]


@pytest.mark.parametrize(
    ("source", "words"),
    [("sand, water, boat", "gives none"), ("0: sand, 1: water, 65535: boat", "'boat' has the id 65535")],
)
def test_ids_that_a_label_map_cannot_hold(source: str, words: str, tmp_path: Path) -> None:
    result = make(Vocabulary.parse(source))
    with pytest.raises(InputError, match=words):
        result.save(tmp_path / "a.png", own_ids=True)
    assert not [*tmp_path.iterdir()]
    assert result.save(tmp_path / "a.png").is_file()


def test_the_command_line(
    categories: Path, tiny_clip: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["--model", str(tiny_clip), "--templates", "simple", "--device", "cpu", "--output", str(out)]
    formats = ["--formats", "labels,report,coco-semantic"]
    assert main(["segment", str(photo), "--classes", str(categories), *words, *formats, "--own-ids"]) == 0
    assert "note: the ids of the list are kept (7, 3, 90)" in capsys.readouterr().err
    report = json.loads((out / "photo.json").read_text())
    assert {one["label"]: one["name"] for one in report["classes"]} == NAMES
    assert any("ids of the list" in note for note in report["meta"]["notes"])
    assert {*np.unique(read_label_png(out / "photo.labels.png", own_ids=True)).tolist()} <= NAMES.keys()
    found = json.loads((out / "coco-semantic.json").read_text())
    assert {one["category_id"] for one in found["annotations"]} <= NAMES.keys()
    assert main(["segment", str(photo), "--classes", "sand, sea", *words, "--own-ids"]) == 2
    assert "gives none" in capsys.readouterr().err
