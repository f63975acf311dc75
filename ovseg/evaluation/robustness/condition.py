"""One condition of a robustness test: what happens to photos and to the vocabulary. The base class changes nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ovseg.vocabulary import Vocabulary


@dataclass(frozen=True)
class Condition:
    """The clean condition; others override what they change.

    Attributes:
        name: What is done, such as ``fog``.
        severity: How much of it; 0 only where nothing is done. Each family tells its unit.
        seed: Another one draws other noise, mistakes and words.
    """

    FAMILY: ClassVar[str] = "clean"

    name: str = "clean"
    severity: int = 0
    seed: int = 0

    @property
    def key(self) -> str:
        """A name of its own among conditions of one seed, fit for files: ``fog-3``."""
        return f"{self.name}-{self.severity}" if self.severity else self.name

    def image(self, pixels: np.ndarray, image_id: str, vocabulary: Vocabulary, present: Collection[int]) -> np.ndarray:
        """Return the photo that the model gets.

        Args:
            pixels: (H, W, 3) uint8 RGB of any size; it is not written to.
            image_id: Seeds what is drawn.
            vocabulary: The classes of the data set.
            present: Ids of the classes in the image's ground truth.

        Returns:
            (H, W, 3) uint8; the same size, and pixels stay where their ground truth is.
        """
        return pixels

    def vocabulary(self, vocabulary: Vocabulary) -> Vocabulary:
        """Return the words that the model is asked: the classes keep their ids, added names follow.

        What is labelled as an added name counts as no class, -1.
        """
        return vocabulary

    def rng(self, *parts: Any) -> np.random.Generator:
        """Return random numbers that depend on name, seed and `parts` alone; luck is the same at all severities."""
        text = "\0".join(map(str, (self.FAMILY, self.name, self.seed, *parts)))
        return np.random.default_rng(list(hashlib.sha256(text.encode()).digest()[:16]))
