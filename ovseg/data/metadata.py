"""Encoded images without their metadata: what is left of a file whose pixels are sound and whose metadata are not."""

from __future__ import annotations

import struct
import zlib

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_PIXELS = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_WEBP_PIXELS = (b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF")
_WEBP_FLAGS = 0b0001_0010  # alpha and animation; the others speak of metadata


def without_metadata(data: bytes) -> bytes | None:
    """Return an encoded image with nothing in it but what makes its pixels.

    Args:
        data: A file.

    Returns:
        A file of the same format; None for formats in which pixels and metadata cannot be told apart so simply.
    """
    try:
        if data.startswith(_PNG):
            return _png(data)
        if data.startswith(b"\xff\xd8"):
            return _jpeg(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp(data)
    except (struct.error, IndexError):  # cut off
        pass
    return None


def broken_chunks(data: bytes) -> list[str]:
    """Return the names of those metadata chunks of a PNG whose checksum is wrong; none for other formats."""
    found: list[str] = []
    at = len(_PNG)
    while data.startswith(_PNG) and at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind, end = data[at + 4 : at + 8], at + 8 + length
        if kind not in _PNG_PIXELS and zlib.crc32(data[at + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            found.append(kind.decode("latin-1"))
        at = end + 4
    return list(dict.fromkeys(found))


def _png(data: bytes) -> bytes:
    """Keep the critical chunks, and transparency where its checksum is right."""
    kept, at = [_PNG], len(_PNG)
    while at + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind, end = data[at + 4 : at + 8], at + 12 + length
        chunk = data[at:end]
        sound = zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")
        if kind in _PNG_PIXELS or (kind == b"tRNS" and sound):
            kept.append(chunk)
        at = end
    return b"".join(kept)


def _jpeg(data: bytes) -> bytes:
    """Keep all segments but comments and those of applications; JFIF's and Adobe's say how colours are stored."""
    kept, at = [data[:2]], 2
    while data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # filling
            at += 1
            continue
        if marker == 0xDA:  # the pixels
            break
        (length,) = struct.unpack_from(">H", data, at + 2)
        if marker in (0xE0, 0xEE) or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            kept.append(data[at : at + 2 + length])
        at += 2 + length
    return b"".join([*kept, data[at:]])


def _webp(data: bytes) -> bytes:
    """Keep the chunks of pixels, and take the metadata out of the flags of the header."""
    kept, at = [b"WEBP"], 12
    while at + 8 <= len(data):
        kind = data[at : at + 4]
        (length,) = struct.unpack_from("<I", data, at + 4)
        chunk = data[at : at + 8 + length + length % 2]
        if kind == b"VP8X":
            kept.append(chunk[:8] + bytes([chunk[8] & _WEBP_FLAGS]) + chunk[9:])
        elif kind in _WEBP_PIXELS:
            kept.append(chunk)
        at += len(chunk)
    body = b"".join(kept)
    return b"RIFF" + struct.pack("<I", len(body)) + body
