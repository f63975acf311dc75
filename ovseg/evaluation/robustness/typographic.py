"""Typographic attacks: the name of a class that is not there, written on the photo.

Models on CLIP read: Goh et al., "Multimodal Neurons in Artificial Neural Networks" (Distill 2021); Materzynska et al.,
"Disentangling visual and written concepts in CLIP" (arXiv:2206.07835).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ovseg.errors import InputError
from ovseg.evaluation.robustness.condition import Condition
from ovseg.vocabulary import Vocabulary

HEIGHTS = (0.05, 0.08, 0.12, 0.17, 0.23)
"""Size of the letters at severities 1 to 5, as a share of the image's short side."""

_SMALLEST = 6  # pixels; below, no letter can be read


@dataclass(frozen=True)
class Typographic(Condition):
    """White letters with a black rim somewhere in the photo; severity 1..5 is their size.

    The ground truth stays: a model that labels the photo, not the words, loses only what the letters hide. An image
    that shows all classes stays as it is.
    """

    FAMILY: ClassVar[str] = "typographic"

    name: str = "typographic"
    severity: int = 1

    def __post_init__(self) -> None:
        """Check the severity.

        Raises:
            InputError: It is not 1..5.
        """
        if not 1 <= self.severity <= len(HEIGHTS):
            raise InputError(f"typographic has severity {self.severity}; expected 1 to {len(HEIGHTS)}")

    def image(self, pixels: np.ndarray, image_id: str, vocabulary: Vocabulary, present: Collection[int]) -> np.ndarray:
        """Return the photo with the words; word and place are the same at all severities as far as they fit.

        A name that no font here has is not written.
        """
        from PIL import Image, ImageDraw

        from ovseg.result.lettering import fit_text

        word = self.word(image_id, vocabulary, present)
        if not word:
            return pixels
        height, width = pixels.shape[:2]
        size = max(_SMALLEST, round(HEIGHTS[self.severity - 1] * min(height, width)))
        rim = max(1, size // 12)
        line = fit_text(word, size, width - 2 * rim)
        if line is None:  # no font here has its letters
            return pixels
        picture = Image.fromarray(pixels)
        draw = ImageDraw.Draw(picture)
        boxes = [draw.textbbox((at, 0), text, font=font, stroke_width=rim) for at, text, font in line.parts()]
        left, top = (min(box[side] for box in boxes) for side in (0, 1))
        right, bottom = (max(box[side] for box in boxes) for side in (2, 3))
        x, y = self.rng(image_id).random(2) * np.maximum([width - (right - left), height - (bottom - top)], 0)
        for at, text, font in line.parts():
            place = (x - left + at, y - top)
            draw.text(place, text, font=font, fill="white", stroke_width=rim, stroke_fill="black")
        return np.asarray(picture)

    def word(self, image_id: str, vocabulary: Vocabulary, present: Collection[int]) -> str:
        """Return the name that is written: of a class that the ground truth lacks; empty where it has all."""
        absent = sorted(set(range(len(vocabulary))) - {int(i) for i in present})
        return vocabulary[absent[self.rng(image_id, "word").integers(len(absent))]].name if absent else ""
