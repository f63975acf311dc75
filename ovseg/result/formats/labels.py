"""The label map as a 16-bit PNG: value = class id, 65535 = no class."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ovseg.errors import InputError
from ovseg.result.formats.base import Format, png_info
from ovseg.result.parts import Result
from ovseg.vocabulary import Vocabulary
from ovseg.vocabulary.colors import Color

NO_CLASS = -1
"""Label of a pixel that belongs to no class."""

PNG_NO_CLASS = 65535
"""How the 16-bit PNG writes `NO_CLASS`."""


class Labels(Format):
    """The label map."""

    name = "labels"
    ending = ".labels.png"
    summary = "label map, 16 bit; value = position in the list from 0, 65535 = no class"

    def write(self, result: Result, path: Path, image: str = "") -> None:
        """Write a grey PNG of 16 bits.

        Raises:
            InputError: There are more classes than it can count.
        """
        save_ids(result, path, PNG_NO_CLASS)

    def check(self, classes: Vocabulary, folder: Path) -> None:
        """Refuse more classes than the file can count."""
        check_count(classes, PNG_NO_CLASS)


def check_count(classes: Vocabulary, most: int) -> None:
    """Refuse more classes than a label file has values for.

    Raises:
        InputError: There are more.
    """
    if len(classes) > most:
        fix = "save as .npz" if most == PNG_NO_CLASS else "leave --uint8 and --palette out"
        raise InputError(
            f"got {len(classes)} classes; a label PNG of {most.bit_length()} bits counts up to {most}: {fix}"
        )


def save_ids(result: Result, path: Path, void: int, colors: Sequence[Color] = ()) -> None:
    """Write the label map as a PNG of one channel: value = class id.

    Args:
        result: Whose labels are written.
        path: Of the file.
        void: The value where there is no class: 65535 makes 16 bits, 255 makes 8.
        colors: Of the values from 0, for a file with a palette; then ``void`` is 255.

    Raises:
        InputError: There are more classes than values.
    """
    from PIL import Image

    check_count(result.classes, void)
    values = np.where(result.labels == NO_CLASS, void, result.labels)
    picture = Image.fromarray(values.astype(np.uint16 if void == PNG_NO_CLASS else np.uint8))
    if colors:
        picture = picture.convert("P")
        picture.putpalette([value for color in colors for value in color])
    picture.save(path, format="PNG", pnginfo=png_info(result))


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
