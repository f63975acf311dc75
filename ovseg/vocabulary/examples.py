"""Pictures that stand for a class, beside its names or in their place."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np

from ovseg.errors import VocabularyError


@dataclasses.dataclass(frozen=True, eq=False)
class Example:
    """An object in a picture. Two are equal that show the same, wherever they came from.

    Attributes:
        pixels: (H, W, 3) uint8 RGB.
        mask: (H, W) bool, true on the object.
        name: What to call it in notes, such as its file.
    """

    pixels: np.ndarray
    mask: np.ndarray
    name: str = "picture"

    def __post_init__(self) -> None:
        """Refuse what shows no object.

        Raises:
            VocabularyError: The shapes or dtypes are others, the sizes differ, or the mask is empty.
        """
        shape = self.pixels.shape
        if self.pixels.ndim != 3 or shape[2] != 3 or self.pixels.dtype != np.uint8:
            raise VocabularyError(
                f"the example {self.name} has pixels of shape {shape} and {self.pixels.dtype}; expected (H, W, 3) uint8"
            )
        if self.mask.shape != shape[:2] or self.mask.dtype != bool:
            raise VocabularyError(
                f"the mask of the example {self.name} has shape {self.mask.shape} and {self.mask.dtype}; expected "
                f"{shape[:2]} bool, as large as its picture"
            )
        if not self.mask.any():
            raise VocabularyError(f"the mask of the example {self.name} is empty; expected the pixels of the object")

    @property
    def hash(self) -> str:
        """16 hex digits of what it shows: size, pixels and mask."""
        found = hashlib.sha256(repr(self.mask.shape).encode())
        found.update(np.ascontiguousarray(self.pixels).data)
        found.update(np.packbits(self.mask).data)
        return found.hexdigest()[:16]

    def __eq__(self, other: object) -> bool:
        """Tell whether another one shows the same."""
        return isinstance(other, Example) and self.hash == other.hash

    def __hash__(self) -> int:
        """Go with what it shows."""
        return int(self.hash, 16)
