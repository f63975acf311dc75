"""Large pictures, written in strips: pixel by pixel what small ones are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovseg.result import overlay
from ovseg.result.formats import labels as labels_format
from ovseg.result.formats.labels import read_label_png
from ovseg.result.measures import find_segments
from ovseg.result.png import write_png
from ovseg.result.segmentation import Segmentation
from ovseg.vocabulary import Vocabulary

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("rows", [1, 7, 40])
def test_png_in_strips(tmp_path: Path, dtype: type, rows: int) -> None:
    shape = (40, 33, 3) if dtype == np.uint8 else (40, 33)
    pixels = RNG.integers(0, np.iinfo(dtype).max, shape).astype(dtype)
    write_png(tmp_path / "a.png", 33, 40, (pixels[top : top + rows] for top in range(0, 40, rows)))
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == ("RGB" if dtype == np.uint8 else "I;16")
        np.testing.assert_array_equal(np.asarray(image), pixels)


def test_png_of_wrong_rows(tmp_path: Path) -> None:
    rows = np.zeros((4, 5, 3), np.uint8)
    for strips in (
        [rows],
        [rows, rows, rows],
        [rows[:, :4]],
        [rows.astype(np.int32)],
        [rows, rows[..., 0].astype("u2")],
    ):
        with pytest.raises(ValueError, match="got"):
            write_png(tmp_path / "a.png", 5, 8, strips)


def result(height: int, width: int) -> Segmentation:
    labels = RNG.integers(-1, 3, (height // 20, width // 20)).repeat(20, 0).repeat(20, 1)
    scores = RNG.random(labels.shape, dtype=np.float32)
    image = RNG.integers(0, 256, (*labels.shape, 3), dtype=np.uint8)
    return Segmentation.from_labels(labels, scores, Vocabulary.parse("cat, dog, sky"), image)


@pytest.mark.parametrize("size", [(1100, 600), (300, 900), (400, 60)])  # legend beside; below; higher than the picture
def test_strips_draw_the_same(size: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = result(*size)
    drawn = np.asarray(overlay.draw_overlay(one))
    monkeypatch.setattr(overlay, "LARGE", 0)
    monkeypatch.setattr(labels_format, "LARGE", 0)
    overlay.save_overlay(one, tmp_path / "overlay.png")
    with Image.open(tmp_path / "overlay.png") as image:
        np.testing.assert_array_equal(np.asarray(image), drawn)
    one.save(tmp_path / "labels.png")
    np.testing.assert_array_equal(read_label_png(tmp_path / "labels.png"), one.labels)


def test_measuring_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    one = result(200, 140)
    whole = find_segments(one.labels, one.scores, one.classes)
    monkeypatch.setattr("ovseg.result.measures._PIXELS", 700)
    for before, after in zip(whole, find_segments(one.labels, one.scores, one.classes), strict=True):
        assert (before.area, before.bbox) == (after.area, after.bbox)
        assert before.score == pytest.approx(after.score, abs=1e-12)
