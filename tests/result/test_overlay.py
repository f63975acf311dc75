"""The picture that users see first: sizes, colours, borders, legend, names in any script."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovseg.errors import InputError
from ovseg.result.id_marks import find_marks
from ovseg.result.legend import LEGEND_ROWS, legend_rows, percent, swatch
from ovseg.result.overlay import blend, save_overlay
from ovseg.result.segmentation import Segmentation
from ovseg.vocabulary import Vocabulary

WORDS = ["cat", "sofa", "wall"]


def make(labels: np.ndarray, words: list[str] | None = None, image: np.ndarray | None = None) -> Segmentation:
    """Build a result on a random photograph."""
    if image is None:
        image = np.random.default_rng(0).integers(0, 256, (*labels.shape, 3), np.uint8)
    vocabulary = Vocabulary.parse(words or WORDS)
    return Segmentation.from_labels(labels.astype(np.int32), np.ones(labels.shape), vocabulary, image)


def stripes(height: int, width: int, count: int = 3) -> np.ndarray:
    """Label vertical stripes -1, 0, 1, ..."""
    return np.broadcast_to(np.arange(width) * (count + 1) // width - 1, (height, width)).astype(np.int32)


@pytest.mark.parametrize("size", [(1, 1), (64, 64), (10, 2000), (2000, 10), (480, 640), (1, 300)])
@pytest.mark.parametrize("fill", ["stripes", "nothing"])
def test_sizes(size: tuple[int, int], fill: str) -> None:
    height, width = size
    result = make(stripes(height, width) if fill == "stripes" else np.full(size, -1))
    plain = result.overlay(legend=False)
    assert (plain.mode, plain.size) == ("RGB", (width, height))
    full = result.overlay()
    factor = max(1, -(-256 // max(height, width)))
    assert full.mode == "RGB" and full.width >= width * factor and full.height >= height * factor
    assert full.width > width * factor or full.height > height * factor  # the panel takes room
    assert full.width <= max(width * factor + 400, 400) and full.height <= height * factor + 400


def test_the_photograph_keeps_its_place_beside_the_legend() -> None:
    result = make(stripes(300, 400))
    np.testing.assert_array_equal(np.asarray(result.overlay())[:300, :400], np.asarray(result.overlay(legend=False)))


def test_small_photographs_are_enlarged_without_smoothing() -> None:
    result = make(np.array([[0, 0], [0, 0]]), image=np.array([[[0] * 3, [255] * 3], [[255] * 3, [0] * 3]], np.uint8))
    drawn = np.asarray(result.overlay())[:256, :256]
    small = np.asarray(result.overlay(legend=False))
    np.testing.assert_array_equal(drawn, small.repeat(128, 0).repeat(128, 1))


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
def test_colours(alpha: float) -> None:
    image = np.random.default_rng(1).integers(0, 256, (700, 80, 3), np.uint8)  # more rows than a strip has
    labels = stripes(700, 80)
    colors = np.array([entry.color for entry in Vocabulary.parse(WORDS)], np.uint8)
    drawn = blend(image, labels, colors, alpha).astype(float)
    grey = (image @ [0.299, 0.587, 0.114])[..., None]
    base = image + (grey - image) * min(1, 2 * alpha)
    for column in (10, 30, 50, 70):  # inside the stripes
        label = labels[0, column]
        color = colors[label] if label >= 0 else base[:, column]
        np.testing.assert_allclose(drawn[:, column], base[:, column] * (1 - alpha) + color * alpha, atol=0.51)


def test_extremes_of_alpha() -> None:
    result = make(stripes(50, 60))
    np.testing.assert_array_equal(np.asarray(result.overlay(alpha=0, legend=False)), result.image)
    bare = np.asarray(result.overlay(alpha=1, legend=False))
    assert tuple(bare[20, 20]) == result.classes[0].color
    assert np.ptp(bare[20, 5].astype(int)) == 0  # no class: grey


def test_borders_are_thin_and_lighter() -> None:
    labels = np.zeros((40, 40), np.int32)
    labels[:, 20:] = 1
    drawn = blend(np.zeros((40, 40, 3), np.uint8), labels, np.array([[100, 0, 0], [0, 100, 0]], np.uint8), 0.5)
    assert (drawn[:, :20] == [50, 0, 0]).all() and (drawn[:, 21:] == [0, 50, 0]).all()
    assert (drawn[:, 20] > 100).all()


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_bad_alpha(alpha: float) -> None:
    with pytest.raises(InputError, match="alpha is"):
        make(stripes(5, 6)).overlay(alpha=alpha)


def test_legend_is_sorted_and_counts_the_rest() -> None:
    count = LEGEND_ROWS + 5
    areas = np.arange(1, count + 1)
    labels = np.concatenate([np.repeat(np.arange(count), areas), np.full(75, -1)])[None]
    result = make(labels, [f"name {i}" for i in range(count)])
    rows = legend_rows(result)
    assert [row.text for row in rows] == [f"name {i}" for i in range(24, 4, -1)] + ["+5 more", "no class"]
    assert [row.color for row in rows[:3]] == [swatch(result.classes[i].color) for i in (24, 23, 22)]
    assert rows[-2].share == pytest.approx(15 / 400) and rows[-1].share == 75 / 400
    assert sum(row.share for row in rows) == pytest.approx(1)


def test_legend_leaves_out_what_is_absent() -> None:
    assert [row.text for row in legend_rows(make(np.full((4, 4), 1)))] == ["sofa"]


@pytest.mark.parametrize("alpha", [0.5, 0.8])
def test_swatches_are_the_colours_of_the_picture(alpha: float) -> None:
    result = make(stripes(300, 300), image=np.full((300, 300, 3), 128, np.uint8))
    drawn = np.asarray(result.overlay(alpha))
    panel = drawn[:, 300:].reshape(-1, 3)
    for index, column in enumerate((110, 190, 260)):
        assert (panel == drawn[150, column]).all(1).sum() >= 14 * 14
        assert not (panel == result.classes[index].color).all(1).any()


def test_a_legend_of_all_names_what_the_short_one_counts() -> None:
    labels = np.zeros((400, 500), np.int32)
    labels[0, : LEGEND_ROWS + 9] = np.arange(LEGEND_ROWS + 9)
    result = make(labels, [f"name {i}" for i in range(40)])
    short, full = legend_rows(result), legend_rows(result, every=True)
    assert len(short) == LEGEND_ROWS + 1 and [row.text for row in full] == [f"name {i}" for i in range(LEGEND_ROWS + 9)]
    assert percent(full[-1].share or 0) == "<0.1%" and percent(full[-1].share or 0, exact=True) == "0.0005%"
    assert result.overlay(legend="all").width > result.overlay().width
    with pytest.raises(InputError, match="the legend is 'long'; expected short, all, none"):
        result.overlay(legend="long")


def test_ids_are_written_where_the_classes_are() -> None:
    labels = np.zeros((300, 400), np.int32)
    labels[200:203, 350:353] = 2  # 0.0075 % of the picture
    result = make(labels, image=np.full((300, 400, 3), 90, np.uint8))
    plain = np.asarray(result.overlay(legend=False)).astype(int)
    drawn = np.asarray(result.overlay(legend=False, ids=True)).astype(int)
    changed = np.abs(drawn - plain).max(2) > 60
    assert changed[130:170, 150:200].any()  # in the middle of the large one
    near = np.zeros_like(changed)
    near[180:225, 325:375] = True
    assert changed[near].any() and changed.sum() < 2000
    assert drawn[201, 351].tolist() == plain[201, 351].tolist()  # the ring leaves what it points at
    assert [row.prefix for row in legend_rows(result, ids=True)] == ["0", "2"]


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (200, 3), (30, 30)])
def test_ids_in_pictures_of_any_size(size: tuple[int, int]) -> None:
    result = make(np.arange(size[0] * size[1]).reshape(size) % 3)
    assert result.overlay(legend=False, ids=True).size == size[::-1]
    for legend in (True, "all"):
        assert result.overlay(legend=legend, ids=True).tobytes() != result.overlay(legend=legend).tobytes()


def test_legend_goes_below_wide_pictures() -> None:
    drawn = make(stripes(300, 1000)).overlay()
    assert drawn.width == 1000 and drawn.height > 300


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (1.0, "100%"),
        (0.41, "41%"),
        (0.0995, "10%"),
        (0.0994, "9.9%"),
        (0.001, "0.1%"),
        (0.00099, "<0.1%"),
        (0.0, "0.0%"),
    ],
)
def test_percent(share: float, text: str) -> None:
    assert percent(share) == text


def test_same_call_same_picture() -> None:
    assert make(stripes(300, 300)).overlay().tobytes() == make(stripes(300, 300)).overlay().tobytes()


@pytest.mark.parametrize("ids", [False, True])
@pytest.mark.parametrize("legend", ["short", "all", "none"])
@pytest.mark.parametrize("size", [(700, 500), (300, 900)])
def test_large_pictures_are_the_same_in_strips(
    size: tuple[int, int], legend: str, ids: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    labels = stripes(*size)
    labels[250:262, 40:44] = 2  # across the border of two strips
    result = make(labels)
    monkeypatch.setattr("ovseg.result.overlay.LARGE", 0)
    save_overlay(result, tmp_path / "a.png", legend, ids)
    with Image.open(tmp_path / "a.png") as written:
        np.testing.assert_array_equal(np.asarray(written), np.asarray(result.overlay(legend=legend, ids=ids)))


def test_a_line_thinner_than_the_map_of_places_is_found() -> None:
    labels = np.zeros((1200, 1500), np.int32)
    labels[701, 3:1400] = 1
    marks = {mark.text: mark for mark in find_marks(make(labels))}
    x, y, _ = marks["1"].ring or (0, 0, 0)
    assert labels[int(y), int(x)] == 1 and marks["0"].ring is None
