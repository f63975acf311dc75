"""The picture that users see first: sizes, colours, borders, legend, names in any script."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import ovseg.result.overlay
from ovseg.errors import InputError
from ovseg.result.overlay import LEGEND_ROWS, blend, fit_text, legend_rows
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
    assert [row.color for row in rows[:3]] == [result.classes[i].color for i in (24, 23, 22)]
    assert rows[-2].share == pytest.approx(15 / 400) and rows[-1].share == 75 / 400
    assert sum(row.share for row in rows) == pytest.approx(1)


def test_legend_leaves_out_what_is_absent() -> None:
    assert [row.text for row in legend_rows(make(np.full((4, 4), 1)))] == ["sofa"]


def test_legend_shows_the_swatches() -> None:
    result = make(stripes(300, 300))
    panel = np.asarray(result.overlay())[:, 300:].reshape(-1, 3)
    for entry in result.classes:
        assert (panel == entry.color).all(1).sum() >= 14 * 14


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
    assert ovseg.result.overlay._percent(share) == text


NAMES = [
    "cat 🐱",
    "👩‍🚀",
    "🇫🇷",
    "חתול",
    "قطة على الأريكة",
    "猫",
    "кошка",
    "é́́́",
    "ไทย",
    "a" * 900,
    "x\u200fy",
    "\U0010fffd",
]


@pytest.mark.parametrize("pillow_only", [False, True])
def test_names_in_any_script(monkeypatch: pytest.MonkeyPatch, pillow_only: bool) -> None:
    if pillow_only:  # a system without further fonts
        monkeypatch.setattr(ovseg.result.overlay, "_font_files", lambda: ())
    labels = np.arange(300)[None].repeat(300, 0) * len(NAMES) // 300
    drawn = make(labels, NAMES).overlay()
    assert drawn.width < 300 + 24 * 14 and isinstance(drawn, Image.Image)
    for name in NAMES:
        text, font = fit_text(name, 14, 224)
        assert text and font.getlength(text) <= 224


def test_undrawable_signs_are_spelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ovseg.result.overlay, "_font_files", lambda: ())
    assert fit_text("cat 🐱", 14, 500)[0] == "cat (cat face)"
    assert fit_text("👩‍🚀", 14, 500)[0] == "(woman)(rocket)"
    assert fit_text("🇫🇷", 14, 500)[0] == "(f)(r)"
    assert fit_text("猫", 14, 500)[0] == "?"
    assert fit_text("café", 14, 500)[0] in ("café", "cafe")
    assert fit_text("a" * 900, 14, 100)[0].endswith("a...")


def test_same_call_same_picture() -> None:
    assert make(stripes(300, 300)).overlay().tobytes() == make(stripes(300, 300)).overlay().tobytes()
