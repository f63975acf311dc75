"""PNGs that are written strip by strip, so that a large picture never stands in memory a second time."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

LARGE = 2**24
"""Pictures of more pixels than this are drawn and written in strips."""

_MARK = b"\x89PNG\r\n\x1a\n"
_GREY, _RGB = 0, 2  # colour types
_UP = 2  # filter: the difference to the pixel above
_LEVEL = 3  # of zlib; with this filter higher ones save little and take long
_CHUNK = 2**20  # bytes


def write_png(path: Path, width: int, height: int, strips: Iterable[np.ndarray]) -> None:
    """Write a PNG of 8-bit RGB or 16-bit grey.

    Args:
        path: The file.
        width: In pixels.
        height: In pixels.
        strips: Rows from top to bottom, any number at a time: ``(h, W, 3)`` uint8 or ``(h, W)`` uint16.

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
                _chunk(file.write, b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
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
    if strip.dtype == np.uint16 and strip.shape[1:] == (width,):
        return 16, _GREY
    raise ValueError(f"got rows {strip.shape} {strip.dtype}, expected (h, {width}, 3) uint8 or (h, {width}) uint16")


def _chunk(write: Callable[[bytes], int], kind: bytes, data: bytes) -> None:
    write(struct.pack(">I", len(data)) + kind)
    write(data)
    write(struct.pack(">I", zlib.crc32(data, zlib.crc32(kind))))
