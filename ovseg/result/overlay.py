"""Drawing a result: colours over the photograph, contours between regions, ids on them, and the legend beside them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ovseg.errors import InputError
from ovseg.result.id_marks import find_marks
from ovseg.result.legend import PAPER, add_legend, draw_panel, legend_rows, whole_size
from ovseg.result.parts import Result, nearest
from ovseg.result.png import LARGE, write_png
from ovseg.vocabulary.colors import ALPHA

if TYPE_CHECKING:
    from PIL.PngImagePlugin import PngInfo

LEGENDS = ("short", "all", "none")
"""A legend of the largest classes that are present, of all that are present, or none."""

_SMALL = 256  # photographs with a shorter longest side are enlarged when they get a legend
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # brightness of R, G, B (ITU-R BT.601)
_LINE = 0.6  # how white the borders are
_STRIP = 2**20  # pixels that are drawn at a time, within 64 to 256 rows


def draw_overlay(result: Result, alpha: float = ALPHA, legend: bool | str = True, ids: bool = False) -> Image.Image:
    """Draw the labels of a result over its photograph, which turns grey, so that every hue in the picture is a class.

    Args:
        result: What to draw, ``(H, W)``.
        alpha: Strength of the colours: 0 is the untouched photograph, from 0.5 on it is grey below them, 1 the labels.
        legend: One of `LEGENDS`; True is short, False none. It stands beside the photograph, or below it where it is
            more than 1.6 times as wide as high. Photographs whose longest side is under 256 pixels are then enlarged by
            a whole factor, without smoothing.
        ids: Write the id of each class where it is widest, and before its name in the legend; so that what is too small
            to be seen is found all the same.

    Returns:
        An RGB image; without legend of exactly the photograph's size.

    Raises:
        InputError: ``alpha`` is not in 0..1, or there is no such legend.
    """
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha is {alpha}; expected a number from 0 (photograph) to 1 (labels)")
    if isinstance(legend, bool):
        legend = "short" if legend else "none"
    if legend not in LEGENDS:
        raise InputError(f"the legend is '{legend}'; expected {', '.join(LEGENDS)}")
    colors, arrays = _colors(result), _arrays(result)
    height, width = result.labels.shape
    factor = -(-_SMALL // max(height, width)) if legend != "none" and max(height, width) < _SMALL else 1
    if factor > 1:
        arrays = [array.repeat(factor, axis=0).repeat(factor, axis=1) for array in arrays]
    labels, image, *segments = arrays
    picture = Image.fromarray(blend(image, labels, colors, alpha, *segments))
    for mark in find_marks(result, factor) if ids else ():
        mark.draw(picture)
    if legend == "none":
        return picture
    return add_legend(picture, legend_rows(result, alpha, legend == "all", ids), legend == "all")


def draw_small(result: Result, side: int) -> Image.Image:
    """Draw a result with its short legend, shrunk before it is drawn; a small one as `draw_overlay` does.

    Args:
        result: What to draw.
        side: Longest side of the photograph in pixels, at most. The legend counts all pixels, whatever is shown.
    """
    factor = side / max(result.labels.shape)
    if factor >= 1:
        return draw_overlay(result)
    labels, image, *segments = _shrunk(_arrays(result), factor)
    picture = Image.fromarray(blend(image, labels, _colors(result), ALPHA, *segments))
    return add_legend(picture, legend_rows(result))


def _colors(result: Result) -> np.ndarray:
    return np.array([entry.color for entry in result.classes], dtype=np.uint8).reshape(-1, 3)


def _arrays(result: Result) -> list[np.ndarray]:
    """Return labels, photograph and, where there are some, segments."""
    return [result.labels, result.image, *([result.panoptic.ids] if result.panoptic is not None else [])]


def _shrunk(arrays: list[np.ndarray], factor: float) -> list[np.ndarray]:
    """Shrink labels, photograph and segments: each place shows the mean of the photograph, and one label of it."""
    height, width = (max(1, round(side * factor)) for side in arrays[0].shape)
    image = np.asarray(Image.fromarray(arrays[1]).resize((width, height), Image.Resampling.BOX))
    return [image if array.ndim == 3 else nearest(array, (height, width)) for array in arrays]


def blend(
    image: np.ndarray, labels: np.ndarray, colors: np.ndarray, alpha: float, ids: np.ndarray | None = None
) -> np.ndarray:
    """Mix the class colours into a photograph and trace the borders of the regions in white.

    The photograph loses its own colours with growing ``alpha`` (all at 0.5): an orange suit under a violet tint would
    otherwise be a red that is in no legend. Pixels of no class are the grey photograph.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        labels: ``(H, W)`` int32; -1 = no class.
        colors: ``(K, 3)`` uint8.
        alpha: Strength of the colours, 0..1.
        ids: ``(H, W)`` int32 segments, 0 = none; the borders between those that touch are traced too.

    Returns:
        ``(H, W, 3)`` uint8.
    """
    out = np.empty_like(image)
    top = 0
    for strip in blended(image, labels, colors, alpha, ids):
        out[top : top + len(strip)] = strip
        top += len(strip)
    return out


def blended(
    image: np.ndarray, labels: np.ndarray, colors: np.ndarray, alpha: float, ids: np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """Yield what `blend` returns in strips (h, W, 3), from the top: floats of all would be four times its size."""
    thick = max(1, round(min(labels.shape) / 500))  # thicker borders in bigger pictures
    step = min(256, max(64, _STRIP // image.shape[1]))
    for top in range(0, len(image), step):
        rows, above = slice(top, top + step), min(top, thick)
        near = slice(top - above, top + step)
        border = _borders(labels[near], thick, None if ids is None else ids[near])[above:]
        base = image[rows].astype(np.float32)
        base += ((base @ _LUMA)[..., None] - base) * np.float32(min(1.0, 2 * alpha))
        strength = (alpha * (labels[rows] >= 0)).astype(np.float32)
        base += (colors[labels[rows]] - base) * strength[..., None]  # for -1 any colour, its strength is 0
        base[border] += (255 - base[border]) * np.float32(_LINE * min(1.0, 2 * alpha))
        yield np.rint(base).astype(np.uint8)


def _borders(labels: np.ndarray, thick: int, ids: np.ndarray | None = None) -> np.ndarray:
    """Mark pixels that have another label or segment up to ``thick`` pixels to the left or above; ``(H, W)`` bool.

    Where one of the two is in no segment only the labels count, for what no segment covers has a label all the same.
    """
    border = np.zeros(labels.shape, dtype=bool)
    for step in range(1, thick + 1):
        for here, there in (np.s_[:, step:], np.s_[:, :-step]), (np.s_[step:], np.s_[:-step]):
            border[here] |= labels[here] != labels[there]
            if ids is not None:
                border[here] |= (ids[here] != ids[there]) & (ids[here] > 0) & (ids[there] > 0)
    return border


def save_overlay(
    result: Result, path: Path, legend: str = "short", ids: bool = False, text: PngInfo | None = None
) -> None:
    """Write what `draw_overlay` draws as a PNG; large pictures strip by strip, without holding them a second time.

    Args:
        result: What to draw, ``(H, W)``.
        path: Of the file.
        legend: As in `draw_overlay`.
        ids: As in `draw_overlay`.
        text: What the file says of itself.
    """
    height, width = result.labels.shape
    if height * width <= LARGE:
        draw_overlay(result, ALPHA, legend, ids).save(path, format="PNG", pnginfo=text)
        return
    strips, size = _strips(result, ids), (width, height)
    if legend != "none":
        every = legend == "all"
        panel, beside = draw_panel(width, height, legend_rows(result, ALPHA, every, ids), every)
        size = whole_size(width, height, panel, beside)
        strips = _with_panel(strips, np.asarray(panel), beside, size, (width, height))
    write_png(path, *size, strips, text)


def _strips(result: Result, ids: bool) -> Iterator[np.ndarray]:
    """Yield the picture without its legend in strips, from the top."""
    colors = _colors(result)
    segments = None if result.panoptic is None else result.panoptic.ids
    marks, top = find_marks(result) if ids else [], 0
    for strip in blended(result.image, result.labels, colors, ALPHA, segments):
        picture = Image.fromarray(strip)
        for mark in marks:
            mark.draw(picture, top)
        yield np.asarray(picture)
        top += len(strip)


def _with_panel(
    strips: Iterable[np.ndarray], panel: np.ndarray, beside: bool, size: tuple[int, int], inner: tuple[int, int]
) -> Iterator[np.ndarray]:
    """Yield the rows of a picture with a panel beside or below it, the rest white.

    Args:
        strips: Of the picture, from the top.
        panel: The legend (h, w, 3).
        beside: Where it goes.
        size: Width and height of the whole.
        inner: Width and height of the picture.
    """
    width, height = inner
    top = 0

    def on_paper(strip: np.ndarray, left: int) -> np.ndarray:
        page = np.full((len(strip), size[0], 3), PAPER, dtype=np.uint8)
        page[:, left : left + strip.shape[1]] = strip
        return page

    for strip in strips:
        page = on_paper(strip, 0)
        if beside:
            part = panel[top : top + len(strip)]
            page[: len(part), width:] = part
        top += len(strip)
        yield page
    rest = panel[height:] if beside else panel
    if len(rest):
        yield on_paper(rest, width if beside else 0)
