"""Which way up a picture is: read from its EXIF or XMP data, however broken the rest of them may be."""

from __future__ import annotations

import re
import struct
from typing import Any

import numpy as np
from PIL import Image

TAG = 274  # of EXIF and TIFF
UPRIGHT = 1
_BACK = {6: 8, 8: 6}  # the others are their own opposites
_WORDS = {
    2: "mirrored",
    3: "turned by 180 degrees",
    4: "flipped",
    5: "turned by 90 degrees to the left and flipped",
    6: "turned by 90 degrees to the right",
    7: "turned by 90 degrees to the right and flipped",
    8: "turned by 90 degrees to the left",
}
_TOLD_BY_XMP = ("JPEG", "MPO", "PNG", "WEBP")  # TIFF has its own tag, and readers of HEIC turn it by themselves
_IN_XMP = re.compile(rb"tiff:Orientation(?:\s*=\s*[\"']|>)\s*([0-9]+)")


def read_orientation(image: Image.Image) -> tuple[int, str]:
    """Find out how a picture has to be turned.

    Pillow reads all of the EXIF data and gives up on any fault in them; here they are read for the one entry.

    Args:
        image: Open, of any format.

    Returns:
        EXIF's number, 1 (upright) to 8, and what the user should know about it; empty for nothing.
    """
    exif, problem = image.info.get("exif"), ""
    value: Any = None
    try:
        if hasattr(image, "tag_v2"):
            value = image.tag_v2.get(TAG)
        elif isinstance(exif, bytes) and exif:
            value = _entry(exif)
        else:
            value = image.getexif().get(TAG)
    except Exception:  # Pillow raises nearly anything: SyntaxError, struct.error, KeyError, ...
        problem = "its EXIF data cannot be read: it was taken as upright"
    if isinstance(value, str | bytes):
        text = value.decode("latin-1") if isinstance(value, bytes) else value
        text = text.strip("\0 ")
        value = int(text) if text.isascii() and text.isdigit() else text
    if value is not None and value not in range(1, 9):
        problem = f"its EXIF orientation is {str(value)[:20]!r}, expected 1 to 8: it was taken as upright"
        value = None
    source = "EXIF"
    if image.format in _TOLD_BY_XMP and (value is None or not exif):  # Pillow looks into both
        told = _from_xmp(image)
        value, source = (told, "XMP") if told is not None else (value, source)
    if value in _WORDS:
        return value, f"it was {_WORDS[value]}, as its {source} orientation says"
    return UPRIGHT, problem


def turn(array: np.ndarray, orientation: int) -> np.ndarray:
    """Return a view (H, W, ...) or (W, H, ...) of stored pixels (H, W, ...) as they are to be looked at."""
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return array


def turn_back(array: np.ndarray, orientation: int) -> np.ndarray:
    """Return a view of upright pixels in the order in which the file stores them; the opposite of `turn`."""
    return turn(array, _BACK.get(orientation, orientation))


def _entry(exif: bytes) -> int | bytes | None:
    """Return the orientation of EXIF data; None where they have none.

    Raises:
        ValueError, struct.error: They are no EXIF data.
    """
    while exif.startswith(b"Exif\0\0"):  # some programs write it twice
        exif = exif[6:]
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        raise ValueError("no TIFF header")
    (start,) = struct.unpack_from(f"{order}I", exif, 4)
    (count,) = struct.unpack_from(f"{order}H", exif, start)
    for place in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, length = struct.unpack_from(f"{order}HHI", exif, place)
        if tag == TAG:
            if kind == 2:  # text
                return exif[place + 8 : place + 8 + min(length, 4)]
            (value,) = struct.unpack_from(f"{order}{ {1: 'B', 3: 'H', 4: 'I'}.get(kind, 'H') }", exif, place + 8)
            return int(value)
    return None


def _from_xmp(image: Image.Image) -> int | None:
    """Return the orientation that XMP data tell; None for none."""
    for key in ("xmp", "XML:com.adobe.xmp"):
        data = image.info.get(key)
        found = _IN_XMP.search(data.encode("utf-8", "replace") if isinstance(data, str) else data or b"")
        if found and 1 <= int(found[1]) <= 8:
            return int(found[1])
    return None
