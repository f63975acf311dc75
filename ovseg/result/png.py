"""PNGs that are written strip by strip, so that a large picture never stands in memory a second time."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ovseg.vocabulary.colors import Color

if TYPE_CHECKING:
    from PIL.PngImagePlugin import PngInfo

LARGE = 2**24
"""Pictures of more pixels than this are drawn and written in strips."""

_MARK = b"\x89PNG\r\n\x1a\n"
_GREY, _RGB, _PALETTE = 0, 2, 3  # colour types
_UP = 2  # filter: the difference to the pixel above
_LEVEL = 3  # of zlib; with this filter higher ones save little and take long
_CHUNK = 2**20  # bytes


def write_png(
    path: Path,
    width: int,
    height: int,
    strips: Iterable[np.ndarray],
    text: PngInfo | None = None,
    palette: Sequence[Color] = (),
) -> None:
    """Write a PNG of 8-bit RGB, 8-bit or 16-bit grey, or of places in a palette.

    Args:
        path: The file.
        width: In pixels.
        height: In pixels.
        strips: Rows from top to bottom, any number at a time: ``(h, W, 3)`` uint8, or ``(h, W)`` uint8 or uint16.
        text: What the file says of itself.
        palette: The colours of the values of ``(h, W)`` uint8, up to 256.

    Raises:
        ValueError: They are not ``height`` rows of ``width`` pixels of one kind.
        OSError: The file cannot be written.
    """
    packer, waiting, rows = zlib.compressobj(_LEVEL), b"", 0
    above: np.ndarray | None = None
    with path.open("wb") as file:
        file.write(_MARK)
        for strip in strips:
            kind = _kind(strip, width)
            if above is None:
                bits, colour = kind
                shown = _PALETTE if palette else colour
                _chunk(file.write, b"IHDR", struct.pack(">IIBBBBB", width, height, bits, shown, 0, 0, 0))
                for name, content, *_ in text.chunks if text else ():
                    _chunk(file.write, name, content)
                if palette:
                    _chunk(file.write, b"PLTE", bytes(value for color in palette for value in color))
                above = np.zeros(strip[0].nbytes, dtype=np.uint8)
            elif kind != (bits, colour):
                raise ValueError(f"got rows of {kind} after rows of {(bits, colour)}")
            data = strip.astype(strip.dtype.newbyteorder(">")).view(np.uint8).reshape(len(strip), -1)
            filtered = np.empty((len(data), data.shape[1] + 1), dtype=np.uint8)
            filtered[:, 0] = _UP
            np.subtract(data[0], above, out=filtered[0, 1:])  # wraps around, as it shall
            np.subtract(data[1:], data[:-1], out=filtered[1:, 1:])
            above, rows = data[-1].copy(), rows + len(data)
            waiting += packer.compress(filtered.data)
            if len(waiting) >= _CHUNK:
                _chunk(file.write, b"IDAT", waiting)
                waiting = b""
        if rows != height:
            raise ValueError(f"got {rows} rows, expected {height}")
        _chunk(file.write, b"IDAT", waiting + packer.flush())
        _chunk(file.write, b"IEND", b"")


def _kind(strip: np.ndarray, width: int) -> tuple[int, int]:
    """Return bits and colour type of rows."""
    if strip.dtype == np.uint8 and strip.shape[1:] == (width, 3):
        return 8, _RGB
    if strip.dtype in (np.uint8, np.uint16) and strip.shape[1:] == (width,):
        return 8 * strip.dtype.itemsize, _GREY
    expected = f"(h, {width}, 3) uint8, or (h, {width}) uint8 or uint16"
    raise ValueError(f"got rows {strip.shape} {strip.dtype}, expected {expected}")


def _chunk(write: Callable[[bytes], int], kind: bytes, data: bytes) -> None:
    write(struct.pack(">I", len(data)) + kind)
    write(data)
    write(struct.pack(">I", zlib.crc32(data, zlib.crc32(kind))))
