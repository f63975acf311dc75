"""Drawing a result: colours over the photograph, contours between regions, ids on them, and the legend beside them."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from ovseg.errors import InputError
from ovseg.result.legend import add_legend, legend_rows
from ovseg.result.lettering import plain_font
from ovseg.result.parts import Result
from ovseg.vocabulary.colors import ALPHA

LEGENDS = ("short", "all", "none")
"""A legend of the largest classes that are present, of all that are present, or none."""

_SMALL = 256  # photographs with a shorter longest side are enlarged when they get a legend
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # brightness of R, G, B (ITU-R BT.601)
_LINE = 0.6  # how white the borders are
_PLACE = 256  # pixels of a side, at most, of the map in which the place of an id is looked for


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
    colors = np.array([entry.color for entry in result.classes], dtype=np.uint8).reshape(-1, 3)
    arrays = [result.labels, result.image, *([result.panoptic.ids] if result.panoptic is not None else [])]
    height, width = result.labels.shape
    factor = -(-_SMALL // max(height, width)) if legend != "none" and max(height, width) < _SMALL else 1
    if factor > 1:
        arrays = [array.repeat(factor, axis=0).repeat(factor, axis=1) for array in arrays]
    labels, image, *segments = arrays
    picture = Image.fromarray(blend(image, labels, colors, alpha, *segments))
    if ids:
        _write_ids(picture, result, factor)
    if legend == "none":
        return picture
    return add_legend(picture, legend_rows(result, alpha, legend == "all", ids), legend == "all")


def _write_ids(picture: Image.Image, result: Result, factor: int) -> None:
    """Write the id of each class at its widest place; what is smaller than the number gets a ring, and it beside it.

    Args:
        picture: To be drawn on.
        result: Whose ids are written.
        factor: By how much the picture is larger than the result.
    """
    own = result.classes.ids or range(len(result.classes))
    draw, size = ImageDraw.Draw(picture), int(np.clip(min(picture.size) / 30, 12, 64))
    font, edge = plain_font(size), max(1, size // 8)
    for segment in sorted(result.segments, key=lambda segment: -segment.area):  # the small ones stay on top
        x, y, room = (factor * value for value in _widest(result.labels, segment.class_id, segment.bbox))
        text, centre = str(own[segment.class_id]), (x, y)
        wide = font.getlength(text)
        if room < max(wide, size) / 2:
            ring = max(room, size / 4) + edge
            draw.ellipse((x - ring, y - ring, x + ring, y + ring), outline="white", width=edge)
            side = 1 if x + ring + wide + 2 * edge < picture.width else -1
            centre = x + side * (ring + edge + wide / 2), y
        inside = (
            float(np.clip(centre[0], wide / 2 + edge, max(wide / 2 + edge, picture.width - wide / 2 - edge))),
            float(np.clip(centre[1], size / 2 + edge, max(size / 2 + edge, picture.height - size / 2 - edge))),
        )
        draw.text(inside, text, fill="white", font=font, anchor="mm", stroke_width=edge, stroke_fill="black")


def _widest(labels: np.ndarray, class_id: int, box: tuple[int, int, int, int]) -> tuple[float, float, float]:
    """Return x and y of the pixel of a class that is farthest from all others, and how far it is, in pixels."""
    import cv2

    left, top, width, height = box
    step = -(-max(width, height) // _PLACE)
    mask = labels[top : top + height : step, left : left + width : step] == class_id
    if not mask.any():  # thinner than the step
        mask, step = labels[top : top + height, left : left + width] == class_id, 1
    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return left + step * float(x) + 0.5, top + step * float(y) + 0.5, step * float(depth[y, x])


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
    border = _borders(labels, ids)
    for top in range(0, len(image), 256):  # in strips, for floats of the whole picture would be four times its size
        rows = slice(top, top + 256)
        base = image[rows].astype(np.float32)
        base += ((base @ _LUMA)[..., None] - base) * np.float32(min(1.0, 2 * alpha))
        strength = (alpha * (labels[rows] >= 0)).astype(np.float32)
        base += (colors[labels[rows]] - base) * strength[..., None]  # for -1 any colour, its strength is 0
        base[border[rows]] += (255 - base[border[rows]]) * np.float32(_LINE * min(1.0, 2 * alpha))
        out[rows] = np.rint(base).astype(np.uint8)
    return out


def _borders(labels: np.ndarray, ids: np.ndarray | None = None) -> np.ndarray:
    """Mark pixels whose left or upper neighbour has another label or segment; ``(H, W)`` bool.

    Thicker in bigger pictures. Where one of the two is in no segment only the labels count, for what no segment covers
    has a label all the same.
    """
    border = np.zeros(labels.shape, dtype=bool)
    for step in range(1, max(1, round(min(labels.shape) / 500)) + 1):
        for here, there in (np.s_[:, step:], np.s_[:, :-step]), (np.s_[step:], np.s_[:-step]):
            border[here] |= labels[here] != labels[there]
            if ids is not None:
                border[here] |= (ids[here] != ids[there]) & (ids[here] > 0) & (ids[there] > 0)
    return border
