"""The label map as a 16-bit PNG: value = position of the class, or on request its own id; 65535 = no class."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from ovseg.errors import InputError
from ovseg.result.formats.base import Format, png_info
from ovseg.result.parts import Result
from ovseg.result.png import LARGE, write_png
from ovseg.vocabulary import Vocabulary
from ovseg.vocabulary.colors import Color

NO_CLASS = -1
"""Label of a pixel that belongs to no class."""

PNG_NO_CLASS = 65535
"""How the 16-bit PNG writes `NO_CLASS`."""


_STRIP = 128  # rows of a large picture that are written at a time
_OWN = ("values", "ids of the list")
"""Text in a PNG whose values are no positions, so that nobody reads it as if they were."""


class Labels(Format):
    """The label map."""

    name = "labels"
    ending = ".labels.png"
    summary = "label map, 16 bit; value = position in the list from 0, 65535 = no class"

    def __init__(self, *, own_ids: bool = False) -> None:
        """Choose the values.

        Args:
            own_ids: Values are the ids that the user's list gives to classes, and not positions in it.
        """
        self.own_ids = own_ids

    def check(self, classes: Vocabulary, folder: Path, gone: Collection[Path] = ()) -> None:
        """Refuse classes that the file cannot hold."""
        label_values(classes, self.own_ids)

    def write(self, result: Result, path: Path) -> None:
        """Write a grey PNG of 16 bits.

        Raises:
            InputError: There are more classes, or larger ids, than it can count, or no ids.
        """
        save_ids(result, path, PNG_NO_CLASS, self.own_ids)


def save_ids(result: Result, path: Path, void: int, own_ids: bool = False, colors: Sequence[Color] = ()) -> None:
    """Write the label map as a PNG of one channel.

    Args:
        result: Whose labels are written.
        path: Of the file.
        void: The value where there is no class: 65535 makes 16 bits, 255 makes 8.
        own_ids: See `Labels`.
        colors: Of the values from 0, for a file with a palette; then ``void`` is 255.

    Raises:
        InputError: As `label_values`.
    """
    from PIL import Image

    values = np.array(
        [*label_values(result.classes, own_ids, void), void], np.uint16 if void == PNG_NO_CLASS else np.uint8
    )
    text = png_info(result)
    if own_ids:
        text.add_text(*_OWN)
    height, width = result.labels.shape  # the last value is at NO_CLASS, -1
    if height * width > LARGE:
        strips = (values[result.labels[top : top + _STRIP]] for top in range(0, height, _STRIP))
        write_png(path, width, height, strips, text, colors)
        return
    picture = Image.fromarray(values[result.labels])
    if colors:
        picture = picture.convert("P")
        picture.putpalette([value for color in colors for value in color])
    picture.save(path, format="PNG", pnginfo=text)


def label_values(classes: Vocabulary, own_ids: bool, void: int = PNG_NO_CLASS) -> list[int]:
    """Return the value of each class in a label map.

    Args:
        classes: The vocabulary.
        own_ids: See `Labels`.
        void: The value where there is no class, which is the largest.

    Raises:
        InputError: There are more classes, or larger ids, than a label map can count, or no ids.
    """
    what, fix = f"a label PNG of {void.bit_length()} bits", "save as .npz"
    if void < PNG_NO_CLASS:
        fix = "leave --uint8 and --palette out"
    if len(classes) > void:
        raise InputError(f"got {len(classes)} classes; {what} counts up to {void}: {fix}")
    if not own_ids:
        return list(range(len(classes)))
    if classes.ids is None:
        raise InputError(
            "own ids were asked for and the list of classes gives none; leave --own-ids, or give ids as in "
            "'7: sand, 3: sea'"
        )
    if (highest := max(classes.ids)) >= void:
        name = classes.names[classes.ids.index(highest)]
        raise InputError(f"the class {name!r} has the id {highest}; {what} holds ids up to {void - 1}: leave --own-ids")
    return classes.ids


def read_label_png(path: str | os.PathLike[str], own_ids: bool = False) -> np.ndarray:
    """Read the labels back from a PNG that `Segmentation.save` wrote.

    Args:
        path: Of the file.
        own_ids: Whether its values may be ids of the user's list, which are then returned as they are.

    Returns:
        ``(H, W)`` int32; positions of classes, -1 = no class.

    Raises:
        InputError: The file is missing, damaged, not a 16-bit grey PNG, or holds other ids than are expected.
    """
    from PIL import Image

    try:
        with Image.open(path, formats=["PNG"]) as image:
            mode, text = image.mode, dict(image.info)
            values = np.asarray(image)
    except FileNotFoundError as error:
        raise InputError(f"label file '{path}' not found; expected a file of save('x.png')") from error
    except Exception as error:  # Pillow raises nearly anything on damaged files
        raise InputError(f"label file '{path}' is damaged or no PNG; expected a file of save('x.png')") from error
    if not mode.startswith("I"):
        raise InputError(f"label file '{path}' has mode {mode}; expected 16-bit grey, a file of save('x.png')")
    if text.get(_OWN[0]) == _OWN[1] and not own_ids:
        raise InputError(
            f"label file '{path}' holds the ids of a list (--own-ids), not positions; write it without, or as .npz"
        )
    labels = values.astype(np.int32)  # before the next line: in 16 bits -1 would be 65535 again
    labels[labels == PNG_NO_CLASS] = NO_CLASS
    return labels
