"""Small pictures of results: the colours of the classes over the photograph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ovseg.result.overlay import blend
from ovseg.result.parts import Result
from ovseg.system.files import atomic_write
from ovseg.vocabulary.colors import ALPHA

FOLDER = "review"
SIDE = 320
"""The longer side of a picture in pixels."""
_QUALITY = 80


def thumb_of(folder: Path, name: str) -> Path:
    """Return where the picture of an image lies, by the name of its results."""
    return folder / FOLDER / "thumbs" / f"{name}.jpg"


def save_thumb(result: Result, path: Path) -> None:
    """Write a picture, complete or not at all; the same result makes the same bytes.

    Args:
        result: Of one image (H, W).
        path: Of the JPEG; its folder is made.

    Raises:
        InputError: It cannot be written.
        OSError: Its folder cannot be made.
    """
    height, width = result.labels.shape
    scale = min(1.0, SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    image = Image.fromarray(result.image).resize(size, Image.Resampling.BOX, reducing_gap=2.0)
    rows, columns = (
        ((np.arange(new) + 0.5) / new * old).astype(np.int64)
        for new, old in zip(size[::-1], (height, width), strict=True)
    )
    labels = np.ascontiguousarray(result.labels[rows[:, None], columns], np.int32)
    colors = np.array([entry.color for entry in result.classes], dtype=np.uint8).reshape(-1, 3)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        picture = Image.fromarray(blend(np.asarray(image), labels, colors, ALPHA))
        picture.save(temporary, format="JPEG", quality=_QUALITY)
