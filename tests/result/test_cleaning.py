"""Unsure pixels, specks and holes: what becomes of them, in labels, segments and objects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from ovseg.errors import ConfigError
from ovseg.result.cleaning import Cleaning
from ovseg.result.components import fill_holes, find_components, sieve
from ovseg.result.objects import Instance, Panoptic, PanopticSegment
from ovseg.result.segmentation import Segmentation
from ovseg.vocabulary import Vocabulary

MAPS = st.tuples(st.integers(1, 7), st.integers(1, 7)).flatmap(
    lambda size: arrays(np.int32, size, elements=st.integers(-1, 2))
)


def drawn(*rows: str) -> np.ndarray:
    """A map: a letter for a class, a dot for none."""
    return np.array([[".ab".index(letter) - 1 for letter in row] for row in rows], np.int32)


def result_of(labels: np.ndarray, **parts: object) -> Segmentation:
    scores = np.full(labels.shape, 0.9, np.float32)
    image = np.zeros((*labels.shape, 3), np.uint8)
    return Segmentation(labels, scores, Vocabulary.parse("a, b"), image, {"notes": ["earlier"]}, **parts)  # type: ignore[arg-type]


@given(MAPS)
def test_components_are_those_of_scipy(labels: np.ndarray) -> None:
    found = find_components(labels)
    assert found.areas.sum() == labels.size and (found.values[found.parts] == labels).all()
    assert len(found.values) == sum(ndimage.label(labels == value)[1] for value in np.unique(labels))
    assert (np.unique(found.parts, return_index=True)[1][1:] > 0).all() and found.parts.flat[0] == 0
    pairs, lengths = found.borders()
    sides = (labels[1:] != labels[:-1]).sum() + (labels[:, 1:] != labels[:, :-1]).sum()
    assert lengths.sum() == sides and (pairs[:, 0] < pairs[:, 1]).all()


@given(MAPS, st.integers(0, 9))
def test_no_speck_is_left(labels: np.ndarray, least: int) -> None:
    cleaned, count = sieve(labels, least, -1)
    found = find_components(cleaned)
    small = (found.areas < least) & (found.values != -1)
    assert not small.any() or (len(found.areas) == 1)
    assert {*np.unique(cleaned)} <= {*np.unique(labels)} and (count > 0) == (cleaned != labels).any()
    kept = find_components(labels)
    large = kept.areas >= least
    assert (cleaned == labels)[large[kept.parts] & (labels != -1)].all()  # what is large enough stays as it is


@given(MAPS)
def test_holes_are_those_of_scipy(labels: np.ndarray) -> None:
    expected = labels.copy()
    for value in range(3):
        filled = ndimage.binary_fill_holes(labels == value)
        regions, count = ndimage.label(labels == -1)
        for region in range(1, count + 1):
            own = regions == region
            around = ndimage.binary_dilation(own) & ~own
            if filled[own].all() and (labels[around] == value).all():
                expected[own] = value
    np.testing.assert_array_equal(fill_holes(labels, -1)[0], expected)


def test_a_speck_goes_to_the_longest_border() -> None:
    labels = drawn("aaaa", "abba", "a..a", "....")
    np.testing.assert_array_equal(sieve(labels, 3, -1)[0], drawn("aaaa", "aaaa", "a..a", "...."))
    np.testing.assert_array_equal(sieve(drawn("....", ".b..", "...."), 2, -1)[0], drawn(*["...."] * 3))
    np.testing.assert_array_equal(sieve(drawn("bb"), 9, -1)[0], drawn("bb"))


def test_all_is_done_in_order_and_said() -> None:
    labels = drawn("aaaaa", "aabaa", "aaaaa", "aaaaa")
    result = result_of(labels)
    result.scores[2, 2] = 0.1
    cleaned = Cleaning(min_score=0.5, min_area="10%", fill_holes=True)(result)
    assert (cleaned.labels == 0).all() and (result.labels == labels).all()
    assert cleaned.meta["cleaning"] == {"min_score": 0.5, "min_area": 2, "fill_holes": True}
    earlier, note = cleaned.meta["notes"]
    assert earlier == "earlier" and "1 pixels with a score under 0.5" in note and "1 regions under 2 pixels" in note
    assert "1 holes filled" in note
    assert [one.name for one in cleaned.segments] == ["a"] and result.meta == {"notes": ["earlier"]}
    assert Cleaning()(result) is result and not Cleaning(min_area="0%")
    untouched = Cleaning(min_area=1)(result)
    assert untouched.meta["notes"] == ["earlier"]


def test_segments_and_objects() -> None:
    labels = drawn("aaaaaa", "aabaaa", "aaaa.b")
    ids = np.where(labels == 1, 7, 2).astype(np.int32)
    ids[2, 4] = 0
    panoptic = Panoptic(ids, (PanopticSegment(2, 0, False, 0.9), PanopticSegment(7, 1, True, 0.2)))
    ring = np.ones((3, 6), bool)
    ring[1, 2], ring[1, 4], ring[2, 5] = False, False, False
    objects = Instance.from_mask(ring, 0, 0.9), Instance.from_mask(labels == 1, 1, 0.2)
    result = result_of(labels, panoptic=panoptic, instances=objects)
    cleaned = Cleaning(min_score=0.5)(result)
    assert cleaned.panoptic is not None and cleaned.instances is not None
    assert [one.id for one in cleaned.panoptic.segments] == [2] and (cleaned.panoptic.ids[labels == 1] == 0).all()
    assert cleaned.instances == objects[:1]
    assert "1 of 2 segments left out" in cleaned.meta["notes"][1] and "1 of 2 objects" in cleaned.meta["notes"][1]
    cleaned = Cleaning(fill_holes=True)(result)
    assert cleaned.instances is not None
    filled = ring.copy()
    filled[1, 4] = True  # the other hole shows another object
    np.testing.assert_array_equal(cleaned.instances[0].mask(), filled)
    cleaned = Cleaning(min_area=2)(result)
    assert cleaned.instances is not None and [one.class_id for one in cleaned.instances] == [0]


@pytest.mark.parametrize("value", ["-1", "x", "1.5", "101%", "-1%", "%", "nan%"])
def test_areas_that_are_none(value: str) -> None:
    with pytest.raises(ConfigError, match=r"min_area is .*expected a number of pixels such as 50"):
        Cleaning(min_area=value)
    with pytest.raises(ConfigError, match=r"min_score is 1.5; expected a score in 0..1"):
        Cleaning(min_score=1.5)


@settings(max_examples=20)
@given(MAPS)
def test_a_small_share_is_at_least_a_pixel(labels: np.ndarray) -> None:
    assert Cleaning(min_area="0.001%").pixels(labels.size) == 1 and Cleaning(min_area="50%").pixels(5) == 3


def test_the_command_line(photo: Path, tiny_clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from ovseg.cli import main
    from ovseg.result.formats.labels import read_label_png

    words = ["--classes", "cat, sofa, sea", "--model", str(tiny_clip), "--device", "cpu", "--output", str(tmp_path)]
    assert main(["segment", str(photo), *words, "--min-area", "99%", "--formats", "labels,report"]) == 0
    labels = read_label_png(tmp_path / "photo.labels.png")
    assert len(np.unique(labels)) == 1
    assert "cleaned: " in capsys.readouterr().out
    assert main(["segment", str(photo), *words, "--min-area", "99"]) == 0
    assert main(["segment", str(photo), *words, "--min-area", "much"]) == 2
    assert capsys.readouterr().err == (
        "error: min_area is 'much'; expected a number of pixels such as 50, or a share such as 0.1%\n"
    )
