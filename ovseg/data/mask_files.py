"""Pictures that hold masks: class ids, or the ids of panoptic segments."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ovseg.errors import InputError


def read_label_image(path: str | Path) -> tuple[np.ndarray, int]:
    """Read a one-channel PNG of ids.

    Returns:
        (H, W) integers in 0..65535, and the bits per pixel: 8 or 16.

    Raises:
        InputError: It is missing, broken, or has colours instead of ids.
    """
    image = _open(path)
    values = np.asarray(image)
    if values.ndim != 2:
        raise InputError(
            f"label '{path}' has {values.shape[2]} channels ({image.mode}); expected one with class ids: turn colours "
            "into ids first"
        )
    if values.dtype == bool:
        values = values.astype(np.uint8)
    return values, 8 if values.dtype == np.uint8 else 16


def read_segment_ids(path: str | Path) -> np.ndarray:
    """Read a PNG of COCO's panoptic format, whose colours are segment ids; a palette is looked up, alpha is not heeded.

    Returns:
        (H, W) int64, R + 256 G + 65536 B; 0 is void.

    Raises:
        InputError: It is missing, broken, or has no colours.
    """
    image = _open(path)
    if image.mode not in ("RGB", "RGBA", "P"):
        raise InputError(
            f"panoptic mask '{path}' has no colours ({image.mode}); expected RGB as COCO writes it "
            "(id = R + 256 G + 65536 B)"
        )
    rgb = np.asarray(image.convert("RGB") if image.mode == "P" else image)[..., :3]
    ids: np.ndarray = rgb.astype(np.int64) @ np.array([1, 256, 65536])
    return ids


def _open(path: str | Path) -> Image.Image:
    try:
        image = Image.open(path)
        image.load()
    except FileNotFoundError as error:
        raise InputError(f"mask '{path}' is missing; add it, or leave its image out") from error
    except Exception as error:  # decoders raise nearly anything
        reason = " ".join(str(error).split())[:100]
        raise InputError(f"mask '{path}' cannot be read ({reason}); expected a PNG, make it anew") from error
    return image
