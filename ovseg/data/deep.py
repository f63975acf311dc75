"""Pictures with more than three bands, or with more than 8 bits a colour, which Pillow cuts down without a word."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ovseg.data.arrays import full_scale
from ovseg.data.kinds import is_tiff
from ovseg.data.metadata import without_metadata
from ovseg.errors import InputError
from ovseg.system.warned import keep

SAMPLES = 277
"""The tag of TIFF that counts the bands."""

_BITS, _PHOTOMETRIC, _EXTRA = 258, 262, 338  # others
_WHITE_IS_ZERO = 0
_PLAIN = (
    _WHITE_IS_ZERO,
    1,
    2,
)  # photometric: grey or RGB, and not colours of print, of a palette, of video or of the eye
_PPM_16 = re.compile(rb"P6(?:\s|#[^\n]*\n)+\d+(?:\s|#[^\n]*\n)+\d+(?:\s|#[^\n]*\n)+65535\s")
_PREMULTIPLIED, _ALPHA = 1, 2  # kinds of extra samples


class MissingCodec(InputError):
    """A picture is compressed by something that takes another package."""


@dataclass(frozen=True)
class Bands:
    """The bands of a picture.

    Attributes:
        values: ``(H, W, C)`` as the file holds them.
        alpha: The last band is how opaque a pixel is.
        premultiplied: The colours are multiplied by it already.
    """

    values: np.ndarray
    alpha: bool = False
    premultiplied: bool = False


def is_deep(image: Image.Image, head: bytes) -> bool:
    """Tell whether Pillow would leave out bands or low bits of an open image."""
    tags = getattr(image, "tag_v2", None)
    if tags is not None:
        samples, bits = tags.get(SAMPLES, 1), max(tags.get(_BITS, (1,)))
        extra = tuple(tags.get(_EXTRA, ()))
        alpha = bool(extra) and extra[0] in (_PREMULTIPLIED, _ALPHA)
        colours = samples - alpha
        kind = tags.get(_PHOTOMETRIC, 1)
        return kind in _PLAIN and ((bits > 8 and (samples > 1 or kind == _WHITE_IS_ZERO)) or colours not in (1, 3))
    if image.format == "PNG":
        return head[24] == 16 and head[25] in (2, 4, 6)
    if image.format == "JPEG2000":
        start = head.find(b"\xff\x4f\xff\x51")  # the sizes, at the beginning of the pixels
        return start >= 0 and head[start + 42 : start + 43] > b"\x07" and len(image.getbands()) > 1
    if image.format == "PPM":  # those that say less than 65535 say their true range, and Pillow heeds it
        return _PPM_16.match(head) is not None
    return False


def has_eight_bits(image: Image.Image) -> bool:
    """Tell whether all bands of an open TIFF have 8 bits at most."""
    return max(image.tag_v2.get(_BITS, (1,))) <= 8  # type: ignore[attr-defined]


def read_bands(data: bytes, name: str, check_size: Callable[[int, int], None]) -> Bands:
    """Read all bands of a picture in their own numbers.

    Args:
        data: A TIFF, PNG, PPM or JPEG 2000 file.
        name: What it is called in messages.
        check_size: Called with width and height before anything is decoded; it raises for sizes that are refused.

    Raises:
        MissingCodec: Another package has to be installed.
        Exception: Whatever the readers raise for damaged files.
    """
    return _tiff(data, name, check_size) if is_tiff(data) else _by_opencv(data)


def _told(record: logging.LogRecord) -> bool:
    """Give what tifffile logs to whoever collects warnings; only the rest is logged."""
    return not keep(record.getMessage())


def _tiff(data: bytes, name: str, check_size: Callable[[int, int], None]) -> Bands:
    import tifffile

    logging.getLogger("tifffile").addFilter(_told)  # one more time changes nothing
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page: Any = file.pages[0]
        check_size(page.imagewidth, page.imagelength)
        extra = tuple(int(kind) for kind in page.extrasamples)
        try:
            values, axes = np.asarray(page.asarray()), page.axes
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            if page.samplesperpixel > 4:
                how = getattr(page.compression, "name", page.compression)
                raise MissingCodec(
                    f"image '{name}' has {page.samplesperpixel} bands compressed by {how}; run `pip install "
                    "'ovseg[tiff]'`, or save it without compression"
                ) from error
            values, axes = _by_opencv(data).values, "YXS"
        if page.photometric == _WHITE_IS_ZERO:
            values = full_scale(values) - values
    if axes == "SYX":
        values = np.moveaxis(values, 0, -1)
    if values.ndim not in (2, 3) or axes not in ("YX", "YXS", "SYX"):
        raise ValueError(f"it has the axes {axes}")
    values = values if values.ndim == 3 else values[..., None]
    has_alpha = bool(extra) and extra[0] in (_PREMULTIPLIED, _ALPHA) and values.shape[2] in (2, 4)
    return Bands(values, has_alpha, has_alpha and extra[0] == _PREMULTIPLIED)


def _by_opencv(data: bytes) -> Bands:
    import cv2

    # Without metadata, of which the libraries below complain on stderr, without a name.
    encoded = np.frombuffer(without_metadata(data) or data, dtype=np.uint8)
    values: Any = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED)
    if values is None:
        raise ValueError("its pixels cannot be decoded")
    if values.ndim == 2:
        return Bands(values[..., None])
    order = [2, 1, 0, 3][: values.shape[2]]  # OpenCV's colours are the other way round
    return Bands(values[..., order], alpha=values.shape[2] == 4)
