"""Ids of classes in a picture: each where its class is widest, so that what is too small to be seen is found."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from ovseg.result.lettering import plain_font
from ovseg.result.parts import Result

_MAP = 256  # pixels of a side, at most, of the map in which the place of an id is looked for


@dataclass(frozen=True)
class Mark:
    """An id, and a ring around a class that is smaller than it.

    Attributes:
        text: The id.
        centre: Its middle, x and y in pixels of the picture.
        size: Of the letters, in pixels.
        edge: Thickness of its black edge, and of the ring.
        ring: Middle (x, y) and radius; None where the id stands inside of its class.
    """

    text: str
    centre: tuple[float, float]
    size: int
    edge: int
    ring: tuple[float, float, float] | None

    def draw(self, picture: Image.Image, top: int = 0) -> None:
        """Draw it on a picture, or on the strip of one that begins at row ``top``."""
        draw = ImageDraw.Draw(picture)
        if self.ring:
            x, y, radius = self.ring
            box = (x - radius, y - radius - top, x + radius, y + radius - top)
            draw.ellipse(box, outline="white", width=self.edge)
        x, y = self.centre
        font = plain_font(self.size)
        place = (x, y - top)
        draw.text(place, self.text, fill="white", font=font, anchor="mm", stroke_width=self.edge, stroke_fill="black")


def find_marks(result: Result, factor: int = 1) -> list[Mark]:
    """Return the marks of all classes that are present, those of small ones last, so that they stay on top.

    Args:
        result: Whose ids are written, as reports give them.
        factor: By how much the picture is larger than the result.
    """
    height, width = (factor * side for side in result.labels.shape)
    own = result.classes.ids or range(len(result.classes))
    size = int(np.clip(min(width, height) / 30, 12, 64))
    font, edge = plain_font(size), max(1, size // 8)
    marks = []
    for segment in sorted(result.segments, key=lambda segment: -segment.area):
        x, y, room = (factor * value for value in _widest(result.labels, segment.class_id, segment.bbox))
        text, centre, ring = str(own[segment.class_id]), (x, y), None
        half = font.getlength(text) / 2
        if room < max(half, size / 2):  # it would cover what it points at
            ring = (x, y, max(room, size / 4) + edge)
            shift = ring[2] + edge + half
            centre = (x + shift if x + shift + half + edge < width else x - shift, y)
        inside = _within(centre[0], half + edge, width), _within(centre[1], size / 2 + edge, height)
        marks.append(Mark(text, inside, size, edge, ring))
    return marks


def _within(middle: float, half: float, length: int) -> float:
    """Move the middle of something so that it does not stick out of 0..length, or in its centre if it must."""
    return min(max(middle, half), length - half) if 2 * half <= length else length / 2


def _widest(labels: np.ndarray, class_id: int, box: tuple[int, int, int, int]) -> tuple[float, float, float]:
    """Return x and y of the pixel of a class that is farthest from all others, and how far it is, in pixels."""
    import cv2

    left, top, width, height = box
    step = -(-max(width, height) // _MAP)
    mask = labels[top : top + height : step, left : left + width : step] == class_id
    if not mask.any():  # thinner than the step; the first row of its box shows it
        return left + float((labels[top, left : left + width] == class_id).argmax()) + 0.5, top + 0.5, 1.0
    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return left + step * float(x) + 0.5, top + step * float(y) + 0.5, step * float(depth[y, x])
