"""One tester for all output formats, and the files of a run: what they are called, what they never replace."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovseg.cli import main
from ovseg.errors import InputError, UnknownNameError
from ovseg.result.files import (
    STANDARD,
    finish_files,
    is_picture_of_ours,
    needs_of,
    plan_files,
    wants_of,
    write_files,
)
from ovseg.result.formats import FORMATS, Place, list_formats
from ovseg.result.formats.labels import read_label_png
from ovseg.result.objects import Instance, Panoptic, PanopticSegment
from ovseg.result.records import RecordFile
from ovseg.result.segmentation import Segmentation
from ovseg.system.registry import build
from ovseg.vocabulary import ClassEntry, Vocabulary

NAMES = [one.name for one in list_formats()]
RARE = {"coco-panoptic": "no panoptic segments", "coco-instance": "no instances"}
FOLDERS = {
    "dataset": ["classes.txt", "images/photo.jpg", "labels/photo.png"],
    "coco-semantic": ["coco-semantic.json"],
    "coco-instance": ["coco-instance.json"],
    "coco-panoptic": ["coco-panoptic.json", "coco-panoptic/photo.png"],
    "yolo-seg": ["yolo-seg/data.yaml", "yolo-seg/images/photo.jpg", "yolo-seg/labels/photo.txt"],
    "labelme": ["labelme/photo.jpg", "labelme/photo.json"],
    "label-studio": ["label-studio/config.xml", "label-studio/images/photo.jpg", "label-studio/tasks.json"],
    "cvat": ["cvat.xml"],
    "voc": [
        "voc/ImageSets/Segmentation/trainval.txt",
        "voc/JPEGImages/photo.jpg",
        "voc/SegmentationClass/photo.png",
        "voc/SegmentationObject/photo.png",
        "voc/labelmap.txt",
    ],
}
"""What formats write that is not called after the image and an ending."""


def write_all(result: Segmentation, place: Place, formats: list[str]) -> dict[str, Path]:
    """Write a run of one image."""
    records = RecordFile()
    written = write_files(result, place, formats)
    records.add(written)
    assert finish_files(records, result.classes, place.folder, formats) == []
    return {name: one.path for name, one in written.items()}


def place_of(folder: Path, image: str = "photo.jpg") -> Place:
    """An image beside a folder of results, and where these go."""
    source = folder.parent / "photographs" / image
    source.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(len(image)).integers(0, 256, (6, 8, 3), np.uint8)).save(source)
    return plan_files([source], folder)[str(source)]


def found_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def make(parts: bool = True, words: str = "cat, sofa", source: Path | None = None) -> Segmentation:
    """A result of 6 x 8 pixels, with or without a segment and an object."""
    labels = np.zeros((6, 8), np.int32)
    labels[2:4, 3:7] = 1
    labels[5] = -1
    own = labels == 1
    panoptic = Panoptic(own.astype(np.int32) * 300, (PanopticSegment(300, 1, True, 0.5),)) if parts else None
    instances = (Instance.from_mask(own, 1, 0.5),) if parts else None
    classes, image = Vocabulary.parse(words), np.zeros((6, 8, 3), np.uint8)
    meta = {"image": "a.jpg", "path": str(source) if source else None}
    every = np.stack([labels == 0, labels == 1]).astype(np.float32) if parts else None
    return Segmentation.from_labels(labels, np.full((6, 8), 0.5), classes, image, meta, panoptic, instances, every)


def test_names_and_endings_are_unambiguous() -> None:
    endings = [ending for one in list_formats() for ending in one.endings()]
    assert len({*NAMES}) == len(NAMES) >= 9 and len({*endings}) == len(endings)
    assert all(one.mark for one in list_formats() if any(e.endswith(".json") for e in one.endings()))
    assert {*STANDARD} <= {*NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_every_format(name: str, tmp_path: Path) -> None:
    place, one = place_of(tmp_path / "out"), build(FORMATS, name)
    result = make(source=place.source)
    written = write_all(result, place, [name])
    assert [*written] == [name] and written[name] in {*one.files(place), *one.shared(place.folder)}
    expected = FOLDERS.get(name) or sorted(f"photo{ending}" for ending in one.endings())
    assert found_in(tmp_path / "out") == expected and written[name].is_file()
    assert needs_of([name]) == {*one.needs} and wants_of([name], ["panoptic"]) == {*one.needs} | {*one.uses}
    notes: list[str] = []
    assert plan_files([place.source], place.folder, [name], on_note=lambda _, note: notes.append(note))
    assert notes == []  # what it has written it may write again
    first = {path: (tmp_path / "out" / path).read_bytes() for path in expected}
    write_all(result, place, [name])
    assert first == {path: (tmp_path / "out" / path).read_bytes() for path in found_in(tmp_path / "out")}
    for ending in one.endings():
        assert is_picture_of_ours(Path(f"x{ending}")) == ending.endswith(".png")
    assert not is_picture_of_ours(Path("x.png"))


@pytest.mark.parametrize("name", NAMES)
def test_what_a_model_does_not_give_is_no_half_file(name: str, tmp_path: Path) -> None:
    place = place_of(tmp_path / "out")
    if name not in RARE:
        assert [*write_files(make(False), place, [name])] == [name]
        return
    with pytest.raises(InputError, match=RARE[name]):
        write_files(make(False), place, [name])
    assert not found_in(tmp_path / "out")


def test_contents(tmp_path: Path) -> None:
    place = place_of(tmp_path / "out", "cam1/a.jpg")
    result = make(source=place.source)
    files = write_all(result, place, NAMES)
    for path in files["labels"], files["png"]:
        np.testing.assert_array_equal(read_label_png(path), result.labels)
    again = Segmentation.load(files["npz"])
    np.testing.assert_array_equal(again.labels, result.labels)
    assert again.panoptic is not None and again.instances == result.instances and again.meta == result.meta
    np.testing.assert_array_equal(again.class_scores, result.class_scores)
    found = json.loads(files["report"].read_text())
    assert found == result.to_json()
    assert found["input"]["path"] == str(place.source) and len(found["input"]["pixels"]) == 16
    with Image.open(files["overlay"]) as picture:
        assert picture.mode == "RGB" and picture.width > 8
    for name, wanted in ("coco-semantic", result.to_coco()), ("coco-instance", result.to_coco_instances()):
        found = json.loads(files[name].read_text())
        (image,) = found["images"]
        assert image["file_name"] == "a.jpg" and found["categories"] == wanted["categories"]
        assert found["annotations"] == [{**one, "image_id": image["id"]} for one in wanted["annotations"]]
    with Image.open(files["coco-panoptic"]) as picture:
        values = np.asarray(picture).astype(int)
    assert ((values @ [1, 256, 65536] == 300) == (result.labels == 1)).all()
    found = json.loads((tmp_path / "out/coco-panoptic.json").read_text())
    (own,), (wanted,) = found["annotations"], result.to_coco_panoptic()["annotations"]
    assert own["segments_info"] == wanted["segments_info"] and own["file_name"] == "a.png"


def test_the_colours_that_were_given_by_hand_come_back(tmp_path: Path) -> None:
    words = Vocabulary((ClassEntry(("cat",), color=(1, 2, 3)), ClassEntry(("sofa",))))
    plain = make()
    result = Segmentation(plain.labels, plain.scores, words, plain.image)
    again = Segmentation.load(result.save(tmp_path / "x.npz"))
    assert [entry.color for entry in again.classes] == [entry.color for entry in words]


@pytest.mark.parametrize("name", [one.name for one in list_formats() if one.mark or one.name in FOLDERS])
def test_the_files_of_others_stay(name: str, tmp_path: Path) -> None:
    place = place_of(tmp_path / "out")
    one = build(FORMATS, name)
    marked = [
        path for path, mark in (one.files(place) | one.shared(place.folder)).items() if mark or name == "yolo-seg"
    ]
    marked[0].parent.mkdir(parents=True, exist_ok=True)
    marked[0].write_text('{"images": [], "annotations": []}')
    with pytest.raises(InputError, match="is no result of ovseg and would be overwritten"):
        plan_files([place.source], place.folder, [name])
    assert plan_files([place.source], place.folder, ["labels"]) == {str(place.source): place}


def test_an_unknown_format_is_found_before_the_work(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UnknownNameError, match="unknown format 'overlai'; did you mean overlay"):
        plan_files([photo], tmp_path / "out", ["overlai"])
    words = ["--classes", "cat", "--output", str(tmp_path / "out"), "--formats", "label", "--model", "none/here"]
    assert main(["segment", str(photo), *words]) == 2
    assert "unknown format 'label'; did you mean labels" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["coco-instance", "coco-panoptic"])
def test_a_model_that_does_not_give_it_is_refused_before_an_image(
    name: str, photo: Path, tiny_clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--classes", "cat, sofa", "--model", str(tiny_clip), "--device", "cpu", "--output", str(tmp_path / "out")]
    assert main(["segment", str(photo), *words, "--formats", name]) == 2
    err = capsys.readouterr().err
    assert name.partition("-")[2] in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_formats_of_the_command_line(
    photo: Path, tiny_clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--classes", "cat, sofa", "--model", str(tiny_clip), "--device", "cpu", "--output", str(tmp_path / "out")]
    assert main(["segment", str(photo), *words, "--formats", "coco-semantic, labels"]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["coco-semantic.json", "photo.labels.png"]
    with pytest.raises(SystemExit):
        main(["segment", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    shown = re.search(r"--formats FORMATS what .*?\(default: overlay,labels,report\)", text)
    assert shown and {*NAMES} <= {*re.findall(r"[\w-]+", shown[0])}
