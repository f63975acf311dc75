"""The result type: checked at birth, measured right, exported without loss."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from pycocotools import mask as coco_mask

from ovseg.errors import EnvironmentProblem, InputError
from ovseg.result.formats.labels import read_label_png
from ovseg.result.segmentation import Segmentation
from ovseg.vocabulary import Vocabulary

WORDS = Vocabulary.parse([["cat", "kitten"], "sofa", "wall", "חתול 🐱"])
LABEL_MAPS = hnp.arrays(np.int32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(-1, 3))
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:pycocotools")
in_tmp_path = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def make(labels: Any, vocabulary: Vocabulary = WORDS, **meta: Any) -> Segmentation:
    """Build a result with scores and pixels that depend on the place."""
    labels = np.asarray(labels)
    rng = np.random.default_rng(0)
    scores = rng.random(labels.shape, dtype=np.float32)
    return Segmentation.from_labels(
        labels, scores, vocabulary, rng.integers(0, 256, (*labels.shape, 3), np.uint8), meta
    )


RING = np.array(
    [
        [0, 0, 0, -1, 0],
        [0, 1, 0, -1, -1],
        [0, 0, 0, -1, 0],
    ]
)
"""Class 0 has a hole (class 1) and two parts more."""


def test_segments_of_a_small_map() -> None:
    result = make(RING)
    ring, hole = result.segments
    assert (ring.class_id, ring.name, ring.area, ring.bbox) == (0, "cat", 10, (0, 0, 5, 3))
    assert (hole.class_id, hole.name, hole.area, hole.bbox) == (1, "sofa", 1, (1, 1, 1, 1))
    assert ring.area_fraction == 10 / 15
    assert ring.score == pytest.approx(result.scores[RING == 0].mean(), rel=1e-6)
    assert repr(result) == "Segmentation(5x3, 2 of 4 classes: cat 67%, sofa 7%)"


@given(LABEL_MAPS)
def test_segments_equal_a_plain_count(labels: np.ndarray) -> None:
    result = make(labels)
    assert [segment.class_id for segment in result.segments] == sorted(set(labels.ravel().tolist()) - {-1})
    for segment in result.segments:
        rows, columns = np.nonzero(labels == segment.class_id)
        box = (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1)
        assert segment.bbox == tuple(map(int, box))
        assert segment.area == len(rows) and segment.area_fraction == len(rows) / labels.size
        assert segment.score == pytest.approx(result.scores[rows, columns].mean(dtype=np.float64), rel=1e-6)


def test_nothing_found() -> None:
    result = make(np.full((4, 6), -1))
    assert result.segments == [] and result.to_coco()["annotations"] == []
    assert result.to_json()["no_class_fraction"] == 1.0


GOOD: dict[str, Any] = {
    "labels": np.zeros((3, 5), np.int32),
    "scores": np.zeros((3, 5), np.float32),
    "classes": WORDS,
    "image": np.zeros((3, 5, 3), np.uint8),
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.zeros((3, 5), np.int64)}, r"labels are \(3, 5\) int64; expected \(H, W\) int32"),
        ({"labels": np.zeros((1, 3, 5), np.int32)}, r"labels are \(1, 3, 5\)"),
        ({"labels": np.zeros((0, 5), np.int32)}, "at least one pixel"),
        ({"labels": np.full((3, 5), 4, np.int32)}, "range from 4 to 4; expected -1 to 3"),
        ({"labels": np.full((3, 5), -2, np.int32)}, "range from -2 to -2"),
        ({"scores": np.zeros((5, 3), np.float32)}, r"scores are \(5, 3\)"),
        ({"scores": np.zeros((3, 5), np.float64)}, "float64"),
        ({"scores": np.full((3, 5), 1.5, np.float32)}, "scores range from 1.5 to 1.5"),
        ({"scores": np.full((3, 5), -0.5, np.float32)}, "scores range from -0.5"),
        ({"scores": np.full((3, 5), np.nan, np.float32)}, "finite"),
        ({"image": np.zeros((3, 5), np.uint8)}, r"image is \(3, 5\)"),
        ({"image": np.zeros((3, 5, 3), np.float32)}, "float32"),
    ],
)
def test_checked_at_birth(change: dict[str, Any], message: str) -> None:
    Segmentation(**GOOD)
    with pytest.raises(InputError, match=message) as caught:
        Segmentation(**{**GOOD, **change})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        (np.zeros((3, 5)), GOOD["scores"], "expected integers and floats"),
        (GOOD["labels"], np.zeros((3, 5), int), "expected integers and floats"),
        (np.full((3, 5), 2**32), GOOD["scores"], "labels reach from 4294967296"),  # would wrap around to class 0
        (np.full((3, 5), -(2**32)), GOOD["scores"], "labels reach from -4294967296"),
        (GOOD["labels"], np.full((3, 5), 1.1), "scores range"),
    ],
)
def test_from_labels_refuses(labels: np.ndarray, scores: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Segmentation.from_labels(labels, scores, WORDS, GOOD["image"])


def test_from_labels_takes_other_dtypes() -> None:
    scores = np.full((3, 5), 1.0005, np.float16)  # a softmax in half precision
    result = Segmentation.from_labels(np.ones((3, 5), np.uint8), scores, WORDS, GOOD["image"])
    assert result.labels.dtype == np.int32 and result.scores.dtype == np.float32 and result.scores.max() == 1


def test_result_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        make(RING).labels = RING  # type: ignore[misc]


@in_tmp_path
@given(LABEL_MAPS)
def test_png_round_trip(tmp_path: Path, labels: np.ndarray) -> None:
    path = make(labels).save(tmp_path / "a.png")
    back = read_label_png(path)
    assert back.dtype == np.int32
    np.testing.assert_array_equal(back, labels)


def test_png_is_16_bit_with_the_documented_values(tmp_path: Path) -> None:
    many = Vocabulary.parse([f"class {i}" for i in range(847)])
    labels = np.arange(-1, 847).reshape(8, 106)
    path = make(labels, many).save(tmp_path / "a.png")
    with Image.open(path) as image:
        assert image.mode == "I;16"
        values = np.asarray(image)
    assert values[0, 0] == 65535 and values[0, 1] == 0 and values[-1, -1] == 846
    np.testing.assert_array_equal(read_label_png(path), labels)


def test_png_with_too_many_classes(tmp_path: Path) -> None:
    class Crowd(list):  # building 65536 real classes would take seconds
        def __len__(self) -> int:
            return self.size

        size = 65536

    crowd: Any = Crowd()
    result = dataclasses.replace(make(RING), classes=crowd)
    with pytest.raises(InputError, match=r"65536 classes.*save as \.npz"):
        result.save(tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []
    Crowd.size = 65535
    np.testing.assert_array_equal(read_label_png(result.save(tmp_path / "a.png")), RING)


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("none.png", None, "not found"),
        ("text.png", lambda path: path.write_text("hello"), "damaged or no PNG"),
        ("half.png", lambda path: path.write_bytes(saved(RING, path)[:60]), "damaged or no PNG"),
        ("eight.png", lambda path: Image.new("L", (4, 3)).save(path), "mode L; expected 16-bit"),
    ],
)
def test_label_png_errors(tmp_path: Path, name: str, write: Any, message: str) -> None:
    if write:
        write(tmp_path / name)
    with pytest.raises(InputError, match=message):
        read_label_png(tmp_path / name)


def saved(labels: Any, path: Path) -> bytes:
    """Return the bytes that saving a result under this name gives."""
    return make(labels).save(path).read_bytes()


@in_tmp_path
@given(LABEL_MAPS)
def test_npz_round_trip(tmp_path: Path, labels: np.ndarray) -> None:
    result = make(labels, model="mini", timings={"total": 0.25}, notes=["a note"])
    back = Segmentation.load(result.save(tmp_path / "a.npz"))
    for name in ("labels", "scores", "image"):
        expected, got = getattr(result, name), getattr(back, name)
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got, expected)
    assert back.classes == result.classes and back.meta == result.meta and back.segments == result.segments
    assert [entry.color for entry in back.classes] == [entry.color for entry in result.classes]


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (None, "not found"),
        (lambda path: path.write_bytes(b""), "damaged or foreign"),
        (lambda path: path.write_text("hello"), "damaged or foreign"),
        (lambda path: path.write_bytes(saved(RING, path)[:300]), "damaged or foreign"),
        (lambda path: np.savez(path, labels=RING), "damaged or foreign"),
        (lambda path: path.mkdir(), "damaged or foreign"),
    ],
)
def test_npz_errors(tmp_path: Path, write: Any, message: str) -> None:
    if write:
        write(tmp_path / "a.npz")
    with pytest.raises(InputError, match=message):
        Segmentation.load(tmp_path / "a.npz")


def test_json(tmp_path: Path) -> None:
    meta: dict[str, Any] = {
        "model": "mini",
        "path": Path("photos") / "a.jpg",
        "scale": np.float32(0.5),
        "size": np.array([5, 3]),
    }
    result = make(RING, **meta)
    text = result.save(tmp_path / "a.json").read_text(encoding="utf-8")
    assert "חתול 🐱" in text  # names stay readable
    summary = json.loads(text)
    assert summary == result.to_json()
    assert (summary["width"], summary["height"], summary["label_values"]["no_class"]) == (5, 3, 65535)
    cat, sofa, wall, _ = summary["classes"]
    assert [entry["id"] for entry in summary["classes"]] == [0, 1, 2, 3]
    assert (cat["name"], cat["synonyms"], cat["area_fraction"]) == ("cat", ["kitten"], 10 / 15)
    assert cat["score"] == result.segments[0].score and sofa["bbox"] == [1, 1, 1, 1]
    assert (wall["area"], wall["area_fraction"], wall["score"], wall["bbox"]) == (0, 0.0, None, None)
    assert summary["no_class_fraction"] == pytest.approx(4 / 15)
    assert summary["meta"] == {"model": "mini", "path": str(meta["path"]), "scale": 0.5, "size": [5, 3]}


@pytest.mark.parametrize("value", [object(), float("nan"), {1, 2}])
def test_json_with_impossible_meta(tmp_path: Path, value: Any) -> None:
    with pytest.raises(InputError, match="meta cannot be written as JSON"):
        make(RING, thing=value).save(tmp_path / "a.json")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.jpg", "a", "a.npy", "a.json.gz"])
def test_unknown_suffix(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"expected \.png, \.npz, \.json"):
        make(RING).save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_upper_case_suffix(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read_label_png(make(RING).save(tmp_path / "A.PNG")), RING)


def test_save_into_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="create it first"):
        make(RING).save(tmp_path / "none" / "a.png")


@pytest.mark.parametrize("suffix", [".png", ".npz", ".json"])
def test_killed_while_saving_keeps_the_old_result(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    before = saved(RING, path)
    # The child stops after the bytes are written and before the rename: the worst moment there is.
    code = (
        "import sys, os, time, numpy as np\n"
        "from ovseg.result.segmentation import Segmentation\n"
        "from ovseg.vocabulary import Vocabulary\n"
        "os.fsync = lambda _: (print('ready', flush=True), time.sleep(60))\n"
        "shape = (50, 60)\n"
        "result = Segmentation(np.zeros(shape, np.int32), np.zeros(shape, np.float32), Vocabulary.parse(['cat']),\n"
        "                      np.zeros((*shape, 3), np.uint8))\n"
        "result.save(sys.argv[1])\n"
    )
    root = str(Path(__file__).parents[2])
    child = subprocess.Popen([sys.executable, "-c", code, str(path)], cwd=root, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    os.kill(child.pid, signal.SIGKILL)
    child.wait(timeout=10)
    child.stdout.close()
    assert path.read_bytes() == before


def check_coco(result: Segmentation) -> None:
    """Decode every annotation and compare it with the labels, bit by bit."""
    coco = json.loads(json.dumps(result.to_coco(image_id=7, file_name="a.jpg", annotation_id=40)))
    height, width = result.labels.shape
    assert coco["images"] == [{"id": 7, "file_name": "a.jpg", "width": width, "height": height}]
    assert [category["id"] for category in coco["categories"]] == [1, 2, 3, 4]
    assert [annotation["id"] for annotation in coco["annotations"]] == list(range(40, 40 + len(result.segments)))
    labels = np.full((height, width), -1)
    for annotation in coco["annotations"]:
        mask = coco_mask.decode(annotation["segmentation"]).astype(bool)
        assert (labels[mask] == -1).all()  # classes never overlap
        labels[mask] = annotation["category_id"] - 1
        assert annotation["image_id"] == 7 and annotation["iscrowd"] == 0
        assert annotation["area"] == mask.sum() == coco_mask.area(annotation["segmentation"])
        assert annotation["bbox"] == coco_mask.toBbox(annotation["segmentation"]).tolist()
    np.testing.assert_array_equal(labels, result.labels)


@given(LABEL_MAPS)
def test_coco_round_trip(labels: np.ndarray) -> None:
    check_coco(make(labels))


@pytest.mark.parametrize(
    "labels",
    [
        RING,
        np.zeros((1, 1)),  # one pixel
        np.full((3, 4), -1),  # nothing
        np.indices((9, 9)).sum(0) % 2,  # chessboard
        np.zeros((1, 20000)),
        np.kron(np.arange(4).reshape(2, 2), np.ones((300, 200))),
    ],
)
def test_coco_round_trip_of_hard_shapes(labels: np.ndarray) -> None:
    check_coco(make(labels.astype(np.int32)))


def test_coco_names() -> None:
    coco = make(RING, image="photo.jpg").to_coco()
    assert coco["images"][0] == {"id": 0, "file_name": "photo.jpg", "width": 5, "height": 3}
    assert coco["categories"][0]["name"] == "cat" and coco["categories"][3]["name"] == "חתול 🐱"
    assert coco["annotations"][0]["id"] == 1


def test_supervision_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(EnvironmentProblem, match="pip install supervision"):
        make(RING).to_supervision()


@pytest.mark.parametrize("labels", [RING, np.full((3, 5), -1)])
def test_supervision_fields(monkeypatch: pytest.MonkeyPatch, labels: np.ndarray) -> None:
    fake = types.ModuleType("supervision")
    fake.Detections = types.SimpleNamespace  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "supervision", fake)
    result = make(labels)
    check_detections(result.to_supervision(), result)


@pytest.mark.parametrize("labels", [RING, np.full((3, 5), -1)])
def test_supervision_accepts_them(labels: np.ndarray) -> None:
    supervision = pytest.importorskip("supervision")
    result = make(labels)
    detections = result.to_supervision()
    assert isinstance(detections, supervision.Detections) and len(detections) == len(result.segments)
    check_detections(detections, result)


def check_detections(detections: Any, result: Segmentation) -> None:
    """Compare detections with the labels."""
    count = len(result.segments)
    assert detections.xyxy.shape == (count, 4) and detections.confidence.shape == (count,)
    assert detections.mask.shape == (count, *result.labels.shape) and detections.mask.dtype == bool
    for i, segment in enumerate(result.segments):
        x, y, width, height = segment.bbox
        assert detections.xyxy[i].tolist() == [x, y, x + width, y + height]
        assert detections.class_id[i] == segment.class_id and detections.data["class_name"][i] == segment.name
        np.testing.assert_array_equal(detections.mask[i], result.labels == segment.class_id)


def test_npz_of_a_very_large_result_says_no_more_than_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ovseg.result.segmentation.COMPACT", 4)
    labels, scores = np.zeros((2, 3), np.int16), np.full((2, 3), 0.5, np.float16)
    before = Segmentation.from_labels(labels, scores, Vocabulary.parse("cat"), np.zeros((2, 3, 3), np.uint8))
    loaded = Segmentation.load(before.save(tmp_path / "a.npz"))
    assert loaded.scores.dtype == np.float16 and loaded.labels.dtype == np.int16
    assert loaded.meta == before.meta and len(before.meta["notes"]) == 1
