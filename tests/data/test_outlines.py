"""Outlines of COCO: what is drawn, what is refused before anything is decoded, and that no garbage ends the process."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from ovseg.data.outlines import draw_outline, outline_rle, sound_outline
from ovseg.errors import InputError

SIZE = (12, 16)
TRIANGLE = [1, 1, 9, 1, 9, 9]
PIXELS = SIZE[0] * SIZE[1]


def draw(outline, size=SIZE):
    return draw_outline({"file_name": "a.jpg"}, {"id": 5, "segmentation": outline}, size)


@pytest.mark.parametrize(
    ("outline", "reason"),
    [
        (None, "it has no outline"),
        ([], "it has no outline"),
        ({}, "it has no outline"),
        ([[]], "its polygon has 0 numbers; expected at least 6"),
        ([[1, 1, 9, 1]], "its polygon has 4 numbers; expected at least 6"),
        ([[1, 1, 9, 1, 5]], "its polygon has 5 numbers, which are no pairs"),
        ([[1, 1, 9, 1, 5, 6, 7]], "its polygon has 7 numbers, which are no pairs"),
        (TRIANGLE, "its polygon stands alone"),
        ([[TRIANGLE]], "nested too deep"),
        ([[[1, 1], [9, 1], [9, 9]]], "nested too deep"),
        ([TRIANGLE, 3], "a polygon is 3; expected a list"),
        ([TRIANGLE, None], "a polygon is None; expected a list"),
        ([["1", 1, 9, 1, 9, 9]], "its polygon holds '1'; expected numbers"),
        ([[1, None, 9, 1, 9, 9]], "its polygon holds None; expected numbers"),
        ([[math.nan, 1, 9, 1, 9, 9]], "its polygon holds nan; expected finite numbers"),
        ([[1, 1, 9, -math.inf, 9, 9]], "its polygon holds -inf; expected finite numbers"),
        ([[2e8, 1, 9, 1, 9, 9]], "the coordinate 200000000.0, far outside of the image of 16x12"),
        ([[1e308, 1, 1e308, 1, 9, 9]], "far outside"),
        ([[10**400, 1.5, 9, 1, 9, 9]], "far outside"),
        ([[1, 1, 9, -12.5, 9, 9]], "the coordinate -12.5, far outside"),
        ([[1, 1, 32.5, 1, 9, 9]], "the coordinate 32.5, far outside"),
        ("polygon", "its segmentation is 'polygon'"),
        (7, "its segmentation is 7"),
        ({"counts": [PIXELS]}, "its run lengths are of size None, the image of [12, 16]"),
        ({"size": [16, 12], "counts": [PIXELS]}, "its run lengths are of size [16, 12], the image of [12, 16]"),
        ({"size": SIZE}, "its run lengths are None; expected a list"),
        ({"size": SIZE, "counts": []}, "its run lengths add up to 0 pixels, the image has 192"),
        ({"size": SIZE, "counts": [100, 91]}, "its run lengths add up to 191 pixels, the image has 192"),
        ({"size": SIZE, "counts": [100, -1, 93]}, "its run lengths hold -1"),
        ({"size": SIZE, "counts": [100, 0.5, 91.5]}, "its run lengths are [100, 0.5, 91.5]; expected a list of whole"),
        ({"size": SIZE, "counts": [math.nan, 92]}, "expected a list of whole numbers"),
        ({"size": SIZE, "counts": ["100", 92]}, "expected a list of whole numbers"),
        ({"size": SIZE, "counts": [[100], 92]}, "expected a list of whole numbers"),
        ({"size": SIZE, "counts": [2**63, 2**63]}, "expected a list of whole numbers"),
        ({"size": SIZE, "counts": [2**53, 2**53, 1e300]}, "add up to 27021597764222976 pixels"),
        ({"size": SIZE, "counts": ""}, "no string of COCO's"),
        ({"size": SIZE, "counts": "x"}, "no string of COCO's"),
        ({"size": SIZE, "counts": "ü0"}, "no string of COCO's"),
        ({"size": SIZE, "counts": "o"}, "are cut or garbled"),
        ({"size": SIZE, "counts": "ooooooo0"}, "are cut or garbled"),
        ({"size": SIZE, "counts": "0"}, "its run lengths add up to 0 pixels"),
        ({"size": SIZE, "counts": "O"}, "its run lengths hold -1"),
    ],
)
def test_what_is_refused(outline, reason):
    with pytest.raises(InputError) as error:
        draw(outline)
    message = str(error.value)
    assert message.startswith("annotation 5 of 'a.jpg' cannot be drawn: ") and reason in message and "\n" not in message


def test_polygons_that_run_to_and_fro_are_refused_before_memory_is_asked_for():
    rng = np.random.default_rng(0)
    zigzag = rng.uniform(-4000, 8000, 2 * 3000).tolist()
    with pytest.raises(InputError, match=r"goes to and fro over [0-9]+ pixels in an image of 4000x4000"):
        draw([zigzag], (4000, 4000))
    around = [(2000 + 1900 * f(i / 3000 * 2 * np.pi)) for i in range(3000) for f in (np.cos, np.sin)]
    assert draw([around], (4000, 4000)).mean() == pytest.approx(np.pi * 0.475**2, rel=1e-3)


def test_what_is_drawn():
    assert draw([TRIANGLE])[2, 6] and not draw([TRIANGLE])[6, 2]
    outside = draw([[-5, -3, 20, -3, 20, 6, -5, 6]])  # cut off at the edge, as COCO does
    assert outside[:6].all() and not outside[6:].any()
    both = sound_outline([[1, 1, 3, 3], TRIANGLE, [0, 0]], SIZE)
    assert both == [TRIANGLE]
    runs = draw({"size": [12.0, 16.0], "counts": [12.0, 12.0, 168.0]})
    assert runs[:, 1].all() and runs.sum() == 12


@given(st.integers(1, 40), st.integers(1, 40), st.data())
def test_strings_are_read_as_pycocotools_reads_them(height, width, data):
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width)), np.uint8)
    mask = np.asfortranarray(mask.reshape(height, width).repeat(data.draw(st.sampled_from([1, 9])), 1))
    rle = coco_mask.encode(mask)
    size = mask.shape
    for counts in (rle["counts"], rle["counts"].decode()):
        assert (draw({"size": list(size), "counts": counts}, size) == mask).all()
        with pytest.raises(InputError):
            sound_outline({"size": list(size), "counts": counts[:-1]}, size)


numbers = st.one_of(
    st.floats(),
    st.integers(),
    st.integers(-20, 40),
    st.floats(-12, 24),
    st.none(),
    st.booleans(),
    st.text(max_size=3),
    st.builds(pow, st.just(10), st.just(5000)),
)
garbage = st.recursive(
    numbers, lambda inner: st.lists(inner, max_size=9) | st.dictionaries(st.sampled_from(["size", "counts"]), inner)
)
polygons = st.lists(st.lists(numbers, max_size=12), max_size=3)
runs = st.fixed_dictionaries(
    {
        "size": st.just(list(SIZE)),
        "counts": st.one_of(
            st.lists(st.integers(-5, PIXELS), max_size=6),
            st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=12),
            st.binary(max_size=12),
            garbage,
        ),
    }
)


@given(st.one_of(garbage, polygons, runs))
@example({"size": list(SIZE), "counts": b"\xff\x00"})
@example({"size": list(SIZE), "counts": "\ud800"})
def test_garbage_is_drawn_or_refused(outline):
    """Whatever a file holds: a mask of the image's size, or an `InputError`; the process lives."""
    try:
        assert draw(outline).shape == SIZE
        assert outline_rle(outline, SIZE)["size"] == list(SIZE)
    except InputError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    "corners", [[[[math.nan, 1], [2, 3]]], [[[1e9, 1], [2, 3]]], [[1, 2, 3]], [[["1", 1], [2, 3]]]]
)
def test_corners_are_looked_at_too(corners):
    with pytest.raises(InputError, match=r"an annotation of 'a.jpg' cannot be drawn: its polygon"):
        draw_outline({"file_name": "a.jpg"}, {"corners": corners}, SIZE)


@pytest.mark.parametrize("record", [{"height": 12, "width": 15}, {"width": 15}, {"height": 1}])
def test_another_size_than_the_files(record):
    with pytest.raises(InputError, match=r"image 'a.jpg' is 16x12 pixels, its JSON says "):
        draw_outline({"file_name": "a.jpg", **record}, {"segmentation": [TRIANGLE]}, SIZE)
