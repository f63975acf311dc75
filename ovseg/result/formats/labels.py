"""The label map as a 16-bit PNG: value = class id, 65535 = no class."""

from __future__ import annotations

import os

import numpy as np

from ovseg.errors import InputError

NO_CLASS = -1
"""Label of a pixel that belongs to no class."""

PNG_NO_CLASS = 65535
"""How the 16-bit PNG writes `NO_CLASS`."""


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
