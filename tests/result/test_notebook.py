"""What notebooks show of results: the overlay with its legend, small however large the photograph, names never HTML."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from ovseg.errors import InputError
from ovseg.result.notebook import MOST, SIDE, table
from ovseg.result.segmentation import Segmentation
from ovseg.vocabulary import Vocabulary

BAD = '<script>alert("x")</script>&'


def make(
    height: int, width: int, words: tuple[str, ...] = ("cat", "sofa"), notes: tuple[str, ...] = ()
) -> Segmentation:
    """Build a result on noise, which no compression makes small, brighter below; the left half is the first class."""
    image = np.random.default_rng(0).integers(0, 128, (height, width, 3), np.uint8)
    image += np.linspace(0, 127, height, dtype=np.uint8)[:, None, None]
    labels = np.broadcast_to((np.arange(width) * 2 // width), (height, width)).astype(np.int32)
    meta = {"notes": list(notes)}
    return Segmentation.from_labels(labels, np.ones((height, width)), Vocabulary.parse(list(words)), image, meta)


def pictures(page: str) -> list[Image.Image]:
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    return [Image.open(io.BytesIO(base64.b64decode(one))) for one in found]


def test_a_small_result_is_the_overlay() -> None:
    own = make(60, 80)
    (picture,) = pictures(page := own._repr_html_())
    drawn, whole = (np.asarray(one.convert("RGB")).astype(int) for one in (picture, own.overlay()))
    assert drawn.shape == whole.shape and np.abs(drawn - whole).max() < 24 and "shown at" not in page  # 256 colours
    assert 'alt="cat 50%, sofa 50%"' in page and "Segmentation(80x60, 2 of 2 classes: cat 50%, sofa 50%)" in page


@pytest.mark.parametrize("size", [(3000, 4000), (40, 6000), (6000, 40)])
def test_a_large_photograph_leaves_the_notebook_small(size: tuple[int, int]) -> None:
    own = make(*size)
    (picture,) = pictures(page := own._repr_html_())
    assert len(page) < MOST * 1.4  # base64 takes a third more
    shown = re.search(r"shown at (\d+) x (\d+) of (\d+) x (\d+) pixels; overlay\(\) draws all", page)
    width, height, *whole = map(int, shown.groups())
    assert whole == [size[1], size[0]] and max(width, height) <= SIDE
    assert picture.width >= width and picture.height >= height
    if min(width, height) > 50:  # it is this photograph, and has the colours of its classes
        drawn = np.asarray(picture.convert("RGB"))[:height, :width].astype(float)
        assert drawn[-height // 3 :].mean() - drawn[: height // 3].mean() > 20
        left, right = (drawn[:, part].reshape(-1, 3).mean(0) for part in (np.s_[: width // 3], np.s_[-width // 3 :]))
        assert np.abs(left - right).max() > 20


def test_names_and_notes_are_text() -> None:
    page = make(20, 30, (BAD, "sofa"), (f"note {BAD}",))._repr_html_()
    assert "<script" not in page and "&lt;script&gt;" in page and "note &lt;script" in page
    listed = table(("a<b",), [((1, 2, 3), (BAD,))])
    assert "<script" not in listed and "a&lt;b" in listed and "rgb(1, 2, 3)" in listed


def test_two_answers_are_compared_by_name() -> None:
    one = make(60, 80, ("cat", "sofa"))
    other = Segmentation.from_labels(
        np.where(np.arange(80) < 60, 1, -1)[None].repeat(60, 0),
        one.scores,
        Vocabulary.parse(["sofa", "Cat"]),
        one.image,
    )
    found = one.compare(other)
    assert found.share == pytest.approx(0.5) and found.changed.shape == (60, 80)
    assert found.changes == [("sofa", "Cat", 0.25), ("sofa", "no class", 0.25)]
    assert repr(found) == ("Comparison(50% of the pixels have another name; sofa -> Cat 25%; sofa -> no class 25%)")
    page = found._repr_html_()
    assert len(pictures(page)) == 3 and "50% of the pixels have another name" in page and "<td>no class</td>" in page
    assert not one.compare(one).changed.any() and one.compare(one).changes == [] and one.compare(one)._repr_html_()
    with pytest.raises(InputError, match="expected two for one photograph"):
        one.compare(make(60, 81))


def test_many_changes_of_large_photographs_stay_small() -> None:
    words = tuple(f"{BAD} {number}" for number in range(30))
    rng = np.random.default_rng(0)
    one, other = (
        Segmentation.from_labels(
            rng.integers(-1, 30, (900, 1200)),
            np.ones((900, 1200)),
            Vocabulary.parse(list(words)),
            make(900, 1200).image,
        )
        for _ in range(2)
    )
    page = one.compare(other)._repr_html_()
    assert len(page) < 3 * MOST * 1.4 and "<script" not in page and "smaller changes" in page
