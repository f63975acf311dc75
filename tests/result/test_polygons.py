"""Polygons give the map back: exactly without tolerance, and never two values on one pixel with one."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

from ovseg.result.polygons import Outlines, find_outlines

MAPS = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda size: arrays(np.int32, size, elements=st.integers(-1, 2))
)


def drawn(found: Outlines, size: tuple[int, ...]) -> np.ndarray:
    """Draw polygons as COCO does; pixels of two values are an error."""
    ids, covered = np.full(size, -1), np.zeros(size, int)
    for value, parts in found.parts.items():
        lines = [part.ring().ravel().tolist() for part in parts]
        own = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(lines, *size))).astype(bool)
        ids[own] = value
        covered += own
    assert covered.max(initial=0) <= 1
    return ids


HOLES = np.zeros((9, 12), np.int32)
HOLES[1:8, 1:6], HOLES[2:7, 2:5], HOLES[3:6, 3] = 1, -1, 2
HOLES[1:4, 7:9], HOLES[5, 7], HOLES[5, 9], HOLES[7:9, 11] = -1, 2, -1, 1


@settings(max_examples=300)
@given(MAPS)
@example(HOLES)
def test_readers_that_draw_the_outline_get_it_by_moved_corners(labels: np.ndarray) -> None:
    """Ultralytics and supervision fill by OpenCV, LabelMe by Pillow; all cut fractions off."""
    for value, parts in find_outlines(labels, -1).parts.items():
        rings = [part.ring(0.25) for part in parts]
        filled, drawing = np.zeros(labels.shape, np.uint8), Image.new("1", labels.shape[::-1])
        for ring in rings:
            one = np.zeros(labels.shape, np.uint8)
            filled |= cv2.fillPoly(one, [ring.astype(np.int32)], 1)
            ImageDraw.Draw(drawing).polygon([tuple(corner) for corner in ring.tolist()], outline=1, fill=1)
        np.testing.assert_array_equal(filled.astype(bool), labels == value)
        np.testing.assert_array_equal(np.asarray(drawing), labels == value)
        masks = coco_mask.frPyObjects([ring.ravel().tolist() for ring in rings], *labels.shape)
        np.testing.assert_array_equal(coco_mask.decode(coco_mask.merge(masks)).astype(bool), labels == value)


def area(ring: np.ndarray) -> float:
    x, y = ring[:, 0], ring[:, 1]
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()) / 2


@settings(max_examples=400)
@given(MAPS)
def test_the_map_comes_back(labels: np.ndarray) -> None:
    found = find_outlines(labels, -1)
    np.testing.assert_array_equal(drawn(found, labels.shape), labels)
    for value, parts in found.parts.items():
        whole = sum(area(part.outer) + sum(area(hole) for hole in part.holes) for part in parts)
        assert whole == (labels == value).sum() == sum(area(part.ring()) for part in parts)
        assert all(area(part.outer) > 0 and all(area(hole) < 0 for hole in part.holes) for part in parts)
    assert {*found.overlap.values()} <= {1.0}


@settings(max_examples=200)
@given(MAPS, st.floats(0.1, 5))
def test_with_tolerance_no_pixel_has_two_values_and_no_value_is_lost(labels: np.ndarray, tolerance: float) -> None:
    found = find_outlines(labels, -1, tolerance)
    again = drawn(found, labels.shape)
    assert {*np.unique(again)} - {-1} == {*np.unique(labels)} - {-1}
    whole = find_outlines(labels, -1)
    assert {value: len(parts) for value, parts in found.parts.items()} == {k: len(v) for k, v in whole.parts.items()}
    for value, overlap in found.overlap.items():
        both = ((again == value) & (labels == value)).sum()
        assert overlap == pytest.approx(both / ((again == value) | (labels == value)).sum())


def test_shared_lines_stay_shared() -> None:
    y, x = np.mgrid[:200, :300]
    labels = ((x - 150) ** 2 + (y - 100) ** 2 < 70**2).astype(np.int32) + 2 * (x + y // 3 > 220)
    exact, found = find_outlines(labels, -1), find_outlines(labels, -1, 2.0)
    again = drawn(found, labels.shape)
    assert (again != -1).all()  # no gap either
    corners = [sum(len(part.ring()) for parts in one.parts.values() for part in parts) for one in (exact, found)]
    assert corners[1] < corners[0] / 5 and min(found.overlap.values()) > 0.9 and max(found.overlap.values()) < 1


def test_where_lines_would_cross_they_stay_and_others_do_not() -> None:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:240, :240]
    labels = ((x + y) % 120 > 60).astype(np.int32)
    labels[:60, :60] = rng.integers(-1, 3, (60, 60))
    exact, found = find_outlines(labels, -1), find_outlines(labels, -1, 2.0)
    drawn(found, labels.shape)  # no pixel has two values
    far = [  # from the noise
        sum(int((part.outer.min(axis=1) > 70).sum()) for parts in one.parts.values() for part in parts)
        for one in (exact, found)
    ]
    assert far[0] > 500 and far[1] < 30


def test_a_large_map_takes_seconds() -> None:
    rng = np.random.default_rng(0)
    labels = np.kron(rng.integers(-1, 9, (100, 100)), np.ones((8, 8), int)).astype(np.int32)
    np.testing.assert_array_equal(drawn(find_outlines(labels, -1), labels.shape), labels)
