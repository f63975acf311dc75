"""The label map as a 16-bit PNG: value = class id, 65535 = no class."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ovseg.errors import InputError
from ovseg.result.formats.base import Format
from ovseg.result.parts import Result
from ovseg.result.png import LARGE, write_png

NO_CLASS = -1
"""Label of a pixel that belongs to no class."""

PNG_NO_CLASS = 65535
"""How the 16-bit PNG writes `NO_CLASS`."""

_STRIP = 128  # rows of a large picture that are written at a time


class Labels(Format):
    """The label map."""

    name = "labels"
    ending = ".labels.png"
    summary = "label map, 16 bit; value = position in the list from 0, 65535 = no class"

    def write(self, result: Result, path: Path) -> None:
        """Write a grey PNG of 16 bits.

        Raises:
            InputError: There are more classes than it can count.
        """
        from PIL import Image

        if len(result.classes) > PNG_NO_CLASS:
            raise InputError(
                f"got {len(result.classes)} classes; a label PNG counts up to {PNG_NO_CLASS}: save as .npz"
            )
        height, width = result.labels.shape
        if height * width > LARGE:
            strips = (_values(result.labels[top : top + _STRIP]) for top in range(0, height, _STRIP))
            write_png(path, width, height, strips)
        else:
            Image.fromarray(_values(result.labels)).save(path, format="PNG")


def _values(labels: np.ndarray) -> np.ndarray:
    """Return labels (H, W) as the PNG holds them, uint16."""
    # -1 wraps around to 65535 by itself; said outright, the convention is seen.
    return np.where(labels == NO_CLASS, PNG_NO_CLASS, labels).astype(np.uint16)


def read_label_png(path: str | os.PathLike[str]) -> np.ndarray:
    """Read the labels back from a PNG that `Segmentation.save` wrote.

    Returns:
        ``(H, W)`` int32; class ids, -1 = no class.

    Raises:
        InputError: The file is missing, damaged, or not a 16-bit grey PNG.
    """
    from PIL import Image

    try:
        with Image.open(path, formats=["PNG"]) as image:
            mode = image.mode
            values = np.asarray(image)
    except FileNotFoundError as error:
        raise InputError(f"label file '{path}' not found; expected a file of save('x.png')") from error
    except Exception as error:  # Pillow raises nearly anything on damaged files
        raise InputError(f"label file '{path}' is damaged or no PNG; expected a file of save('x.png')") from error
    if not mode.startswith("I"):
        raise InputError(f"label file '{path}' has mode {mode}; expected 16-bit grey, a file of save('x.png')")
    labels = values.astype(np.int32)  # before the next line: in 16 bits -1 would be 65535 again
    labels[labels == PNG_NO_CLASS] = NO_CLASS
    return labels
