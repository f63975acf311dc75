"""What is written is read back: every format, any map, any words."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from ovseg.errors import ConfigError, InputError
from ovseg.result.exports import image_ids
from ovseg.result.files import check_words, finish_files, plan_files, write_files
from ovseg.result.formats.label_studio import brush
from ovseg.result.formats.voc import palette
from ovseg.result.objects import Instance, Panoptic, PanopticSegment
from ovseg.result.records import RecordFile
from ovseg.result.segmentation import Segmentation
from ovseg.vocabulary import ClassEntry, Vocabulary
from tests.result.formats.readers import READERS, brush_bytes

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:pycocotools")

FORMATS = [*READERS]
POLYGONS = ["coco-semantic", "coco-instance", "yolo-seg", "labelme", "cvat"]
WORDS = Vocabulary(
    (ClassEntry(('a "q" & <b>\'s',)), ClassEntry(("猫", "cat")), ClassEntry(("no", "yes"), is_thing=False))
)
NAMES = ("a.png", "sub/images/ü b.png", "sub/c.d.jpg")

MAPS = st.tuples(st.integers(1, 8), st.integers(1, 8)).flatmap(
    lambda size: arrays(np.int32, size, elements=st.integers(-1, 2))
)


@pytest.fixture(autouse=True, scope="module")
def disk() -> Iterator[None]:
    """Do not wait for the disk; a property writes thousands of files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)
        yield


def result_of(labels: np.ndarray, source: Path, classes: Vocabulary = WORDS, parts: bool = True) -> Segmentation:
    """A result whose segments and objects show the label map: an object for each class, or two of the third."""
    ids = labels + 1
    if parts:
        ids = np.where((labels == 2) & (np.arange(labels.shape[1]) % 2 == 0), 300, ids)
    present = [i for i in np.unique(ids).tolist() if i]
    segments = tuple(PanopticSegment(i, min(i, 3) - 1, True, 0.5) for i in present)
    objects = tuple(Instance.from_mask(ids == i, min(i, 3) - 1, 0.5) for i in present)
    panoptic = Panoptic(ids.astype(np.int32), segments) if parts else None
    image = np.random.default_rng(labels.size).integers(0, 256, (*labels.shape, 3), np.uint8)
    source.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(source)
    meta = {"image": source.name, "path": str(source), "notes": []}
    scores = np.full(labels.shape, 0.5)
    return Segmentation.from_labels(labels, scores, classes, image, meta, panoptic, objects if parts else None)


def write(
    maps: list[np.ndarray],
    folder: Path,
    formats: list[str],
    classes: Vocabulary = WORDS,
    parts: bool = True,
    **options: Any,
) -> list[str]:
    """Write maps as a run does; return all notes."""
    sources = [folder / "photographs" / name for name in NAMES[: len(maps)]]
    out, notes, records = folder / "out", list[str](), RecordFile()
    results = [result_of(labels, source, classes, parts) for labels, source in zip(maps, sources, strict=True)]
    places = plan_files(sources, out, formats, options)
    check_words(classes, out, formats, options)
    for result, source in zip(results, sources, strict=True):
        written = write_files(result, places[str(source)], formats, options)
        notes += [note for one in written.values() for note in one.notes]
        records.add(written)
    return notes + finish_files(records, classes, out, formats, options)


def read(folder: Path, name: str, classes: Vocabulary = WORDS) -> list[np.ndarray]:
    """Read the maps back in the order of `NAMES`."""
    found = READERS[name](folder / "out", classes)
    names = [one.rpartition(".")[0] for one in NAMES]
    if len(found) == 1:
        return [found[name] for name in found]
    assert {*found} == {*names[: len(found)]}
    return [found[name] for name in names[: len(found)]]


@settings(max_examples=30, deadline=None)
@given(st.tuples(MAPS, MAPS), st.booleans())
def test_masks_come_back(maps: tuple[np.ndarray, ...], parts: bool) -> None:
    formats = FORMATS if parts else [name for name in FORMATS if name not in ("coco-instance", "coco-panoptic")]
    with tempfile.TemporaryDirectory() as folder:
        write([*maps], Path(folder), formats, parts=parts)
        for name in formats:
            for labels, found in zip(maps, read(Path(folder), name), strict=True):
                np.testing.assert_array_equal(found, labels, name)


@settings(max_examples=30, deadline=None)
@given(st.tuples(MAPS, MAPS), st.sampled_from([0.0, 0.4, 1.0, 3.0]), st.booleans())
def test_polygons_come_back(maps: tuple[np.ndarray, ...], tolerance: float, parts: bool) -> None:
    formats = [name for name in POLYGONS if parts or name != "coco-instance"]
    with tempfile.TemporaryDirectory() as folder:
        notes = write([*maps], Path(folder), formats, parts=parts, polygons=tolerance)
        drawn = {name: read(Path(folder), name) for name in formats}  # which share no pixel, as the readers see to
    if tolerance == 0:
        assert notes == []
        assert all(
            (found == labels).all() for maps_ in drawn.values() for found, labels in zip(maps_, maps, strict=True)
        )
    elif any((found != labels).any() for found, labels in zip(drawn["cvat"], maps, strict=True)):
        assert any(f"polygons within {tolerance:g} pixels" in note and "mean IoU" in note for note in notes)
    for found, labels in zip(drawn["labelme"], maps, strict=True):
        assert {*np.unique(found)} - {-1} == {*np.unique(labels)} - {-1}


@pytest.mark.parametrize("name", FORMATS)
def test_odd_maps(name: str, tmp_path: Path) -> None:
    ring = np.zeros((9, 9), np.int32)
    ring[2:7, 2:7], ring[3:6, 3:6], ring[4, 4] = 1, -1, 2
    checks = (np.indices((9, 9)).sum(0) % 2).astype(np.int32)
    for number, labels in enumerate((ring, checks, checks * 0, checks * 0 - 1, ring[:1], ring[:, 4:5], checks[:1, :1])):
        write([labels], tmp_path / str(number), [name])
        np.testing.assert_array_equal(read(tmp_path / str(number), name)[0], labels)


def test_the_same_bytes_in_any_folder_and_at_any_time(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    maps = [rng.integers(-1, 3, (20, 30)).astype(np.int32) for _ in NAMES]

    def files(root: Path) -> dict[str, bytes]:
        return {
            path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()
        }

    assert write(maps, tmp_path, FORMATS) == [
        "voc: photographs that are no upright JPEG were written as JPEG of quality 95",
        "voc: photographs that are no upright JPEG were written as JPEG of quality 95",
    ]
    first = files(tmp_path / "out")
    assert not any(part.startswith(".") for path in first for part in path.split("/"))
    (tmp_path / "out").rename(tmp_path / "earlier")
    write(maps, tmp_path, FORMATS)
    assert files(tmp_path / "out") == first
    notes = write(maps, tmp_path, FORMATS)  # again into the same folder
    assert files(tmp_path / "out") == first and not any("earlier run" in note for note in notes)
    notes = write(maps[:2], tmp_path, ["coco-semantic", "cvat", "voc"])
    replaced = [note for note in notes if "of an earlier run is replaced" in note]
    assert len(replaced) == 3 and "coco-semantic.json" in replaced[0] and "trainval.txt" in replaced[2]


@pytest.mark.parametrize(
    ("suffix", "png"), [(".gif", {"yolo-seg"}), (".tif", {"label-studio"}), (".ppm", {"yolo-seg", "label-studio"})]
)
def test_photographs_that_a_tool_does_not_read_become_png(suffix: str, png: set[str], tmp_path: Path) -> None:
    source, formats = tmp_path / f"photographs/a{suffix}", ["dataset", "yolo-seg", "labelme", "label-studio"]
    result = result_of(np.zeros((4, 5), np.int32), source)
    write_files(result, plan_files([source], tmp_path / "out", formats)[str(source)], formats)
    for name in formats:
        inside = {"dataset": "images", "labelme": "labelme"}.get(name, f"{name}/images")
        copy = tmp_path / "out" / inside / f"a{'.png' if name in png else suffix}"
        assert name in png or copy.read_bytes() == source.read_bytes()
        assert Image.open(copy).size == (5, 4)


def test_ids_of_images_stay_when_others_come(tmp_path: Path) -> None:
    names = [f"folder/{i}.jpg" for i in range(1000)]
    ids = dict(zip(names, image_ids(names), strict=True))
    assert len({*ids.values()}) == 1000 and 0 < min(ids.values()) and max(ids.values()) < 2**48
    assert [*image_ids(names[::-7])] == [ids[name] for name in names[::-7]]
    twice = [*image_ids(["a", "a", "a"])]
    assert len({*twice}) == 3 and twice[0] == next(image_ids(["a"]))
    maps = [np.zeros((2, 3), np.int32)] * 3
    write(maps, tmp_path, ["coco-semantic"])
    all_ids = {
        one["file_name"]: one["id"] for one in json.loads((tmp_path / "out/coco-semantic.json").read_text())["images"]
    }
    assert [*all_ids] == [*NAMES]


def test_objects_that_overlap_share_no_pixel(tmp_path: Path) -> None:
    low, high = np.zeros((4, 6), bool), np.zeros((4, 6), bool)
    low[:, :4], high[1:3, 2:] = True, True
    result = result_of(np.zeros((4, 6), np.int32), tmp_path / "photographs/a.png")
    objects = (
        Instance.from_mask(low, 0, 0.4),
        Instance.from_mask(high, 1, 0.9),
        Instance.from_mask(low & high, 1, 0.1),
    )
    result = Segmentation(result.labels, result.scores, WORDS, result.image, result.meta, None, objects)
    place = plan_files([tmp_path / "photographs/a.png"], tmp_path / "out")[str(tmp_path / "photographs/a.png")]
    records = RecordFile()
    written = write_files(result, place, ["coco-instance"])
    records.add(written)
    finish_files(records, WORDS, tmp_path / "out", ["coco-instance"])
    found = READERS["coco-instance"](tmp_path / "out", WORDS)["a"]
    np.testing.assert_array_equal(found, np.where(high, 1, np.where(low, 0, -1)))
    shared, covered = written["coco-instance"].notes
    assert "8 pixels are shown as those of the surest object alone" in shared and "1 of 3 objects" in covered


def test_panoptic_files_pass_its_own_evaluation(tmp_path: Path) -> None:
    from panopticapi.evaluation import pq_compute

    rng = np.random.default_rng(0)
    maps = [rng.integers(-1, 3, (12, 15)).astype(np.int32) for _ in NAMES]
    write(maps, tmp_path, ["coco-panoptic"])
    files = [str(tmp_path / "out/coco-panoptic.json")] * 2
    folders = [str(tmp_path / "out/coco-panoptic")] * 2
    assert pq_compute(*files, *folders)["All"]["pq"] == 1


@settings(max_examples=60, deadline=None)
@given(MAPS, st.integers(1, 40))
def test_brush_masks(labels: np.ndarray, times: int) -> None:
    mask = np.repeat(labels == 0, times * 50, axis=0)  # runs of more than 65536 values, too
    np.testing.assert_array_equal(brush_bytes(brush(mask)), np.repeat(np.where(mask, 255, 0).ravel(), 4))


def test_ids_of_the_list_are_kept(tmp_path: Path) -> None:
    words = Vocabulary(tuple(ClassEntry((name,), id=own) for name, own in (("sand", 7), ("sea", 3), ("boat", 254))))
    labels = np.array([[0, 1, 2, -1]], np.int32)
    notes = write([labels], tmp_path, FORMATS, words)
    assert "yolo-seg: labels count classes from 0; data.yaml has the ids of the list" in notes
    for name in FORMATS:
        np.testing.assert_array_equal(read(tmp_path, name, words)[0], labels)
    found = json.loads((tmp_path / "out/coco-semantic.json").read_text())
    assert [one["category_id"] for one in found["annotations"]] == [7, 3, 254]
    assert "<id>254</id><name>boat</name>" in (tmp_path / "out/cvat.xml").read_text()
    assert np.asarray(Image.open(tmp_path / "out/voc/SegmentationClass/a.png")).tolist() == [[1, 2, 3, 255]]
    write([labels], tmp_path / "own", ["voc", "png"], words, own_ids=True, uint8=True)
    for path in ("voc/SegmentationClass/a.png", "a.ids.png"):
        assert np.asarray(Image.open(tmp_path / "own/out" / path)).tolist() == [[7, 3, 254, 255]]
    assert (tmp_path / "own/out/voc/labelmap.txt").read_text().splitlines()[1:3] == [
        "background:0,0,0::",
        "sea:128,128,0::",
    ]


def test_a_class_called_background_is_that_of_voc(tmp_path: Path) -> None:
    words = Vocabulary.parse("cat, background, dog")
    write([np.array([[0, 1, 2, -1]], np.int32)], tmp_path, ["voc"], words)
    assert np.asarray(Image.open(tmp_path / "out/voc/SegmentationClass/a.png")).tolist() == [[1, 0, 2, 255]]
    np.testing.assert_array_equal(read(tmp_path, "voc", words)[0], [[0, 1, 2, -1]])
    assert palette()[:3] == [(0, 0, 0), (128, 0, 0), (0, 128, 0)] and palette()[255] == (224, 224, 192)


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("voc", [["a:b"]], "cannot hold the name 'a:b'"),
        ("voc", [["#a"]], "cannot hold the name '#a'"),
        ("voc", [[f"class {i}"] for i in range(255)], "VOC counts up to 254"),
        ("dataset", [["a, b"]], "comma"),
    ],
)
def test_words_that_a_format_cannot_hold_are_refused_before_the_work(
    name: str, words: list[list[str]], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        check_words(Vocabulary.parse(words), tmp_path, [name])


@pytest.mark.parametrize("name", ["yolo-seg", "voc", "dataset"])
def test_a_folder_with_other_classes_is_refused(name: str, tmp_path: Path) -> None:
    write([np.zeros((2, 2), np.int32)], tmp_path, [name])
    check_words(WORDS, tmp_path / "out", [name])
    with pytest.raises(InputError, match="lists other classes, and its labels would change"):
        check_words(Vocabulary.parse("cat"), tmp_path / "out", [name])


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("yolo-seg", "yolo-seg/labels/a.txt"),
        ("yolo-seg", "yolo-seg/data.yaml"),
        ("yolo-seg", "yolo-seg/images/a.png"),
        ("labelme", "labelme/a.png"),
        ("label-studio", "label-studio/images/a.png"),
        ("label-studio", "label-studio/config.xml"),
        ("cvat", "cvat.xml"),
        ("voc", "voc/ImageSets/Segmentation/trainval.txt"),
        ("voc", "voc/SegmentationObject/a.png"),
        ("voc", "voc/JPEGImages/a.jpg"),
        ("coco-semantic", "coco-semantic.json"),
    ],
)
def test_what_others_made_stays(name: str, file: str, tmp_path: Path) -> None:
    source = tmp_path / "photographs/a.png"
    result_of(np.zeros((2, 2), np.int32), source)
    there = tmp_path / "out" / file
    there.parent.mkdir(parents=True)
    there.write_text("of somebody else")
    with pytest.raises(InputError, match=r"would be (overwritten|replaced); choose another --output"):
        plan_files([source], tmp_path / "out", [name])


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_tolerances_that_are_none(value: float, tmp_path: Path) -> None:
    for name in POLYGONS:
        with pytest.raises(ConfigError, match="expected a tolerance in pixels, from 0"):
            plan_files([], tmp_path, [name], {"polygons": value})
    with pytest.raises(ConfigError, match="option 'polygons' changes none of the formats voc"):
        plan_files([], tmp_path, ["voc"], {"polygons": 1.0})
