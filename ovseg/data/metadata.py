"""Encoded images without their metadata: what is left of a file whose pixels are sound and whose metadata are not."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"\0\0\0\0IEND\xae\x42\x60\x82"
PNG_PIXELS = ("IHDR", "PLTE", "IDAT", "IEND")
"""Chunks of PNG without which there is no picture."""

_ORIENTED = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"  # how segments of JPEG begin that tell which way up it is
_WEBP_PIXELS = (b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF")
_WEBP_FLAGS = 0b0001_0010  # alpha and animation; the others speak of metadata
_WEBP_EXIF = 0b0000_1000


def without_metadata(data: bytes, oriented: bool = False) -> bytes | None:
    """Return an encoded image with nothing in it but what makes its pixels.

    Args:
        data: A file.
        oriented: Keep EXIF data too (of JPEG also XMP), for which way up it is; in PNG where their checksum is right.

    Returns:
        A file of the same format; None for formats in which pixels and metadata cannot be told apart so simply.
    """
    try:
        if data.startswith(_PNG):
            return _png(data, oriented)
        if data.startswith(b"\xff\xd8"):
            return _jpeg(data, oriented)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp(data, oriented)
    except (struct.error, IndexError):  # cut off
        pass
    return None


def broken_chunks(stream: BinaryIO) -> list[str]:
    """Return the names of those chunks of a PNG whose checksum is wrong; none for other formats.

    Pillow does not look at all of the checksums.

    Args:
        stream: A file, from its beginning; it is read.
    """
    if stream.read(len(_PNG)) != _PNG:
        return []
    return list(dict.fromkeys(kind for kind, whole in _chunks(stream) if not whole))


def _chunks(stream: BinaryIO) -> Iterator[tuple[str, bool]]:
    """Yield the name of each chunk that is there as a whole, and whether its checksum is right."""
    while len(start := stream.read(8)) == 8:
        length = int.from_bytes(start[:4], "big")
        content = stream.read(length)
        checksum = stream.read(4)
        if len(content) < length or len(checksum) < 4:
            return
        yield start[4:].decode("latin-1"), zlib.crc32(content, zlib.crc32(start[4:])) == int.from_bytes(checksum, "big")
        if start[4:] == b"IEND":
            return


def _png(data: bytes, oriented: bool) -> bytes:
    """Keep the critical chunks, and transparency and EXIF data where their checksum is right; put an end to it."""
    wanted = (b"tRNS", b"eXIf") if oriented else (b"tRNS",)
    kept, at = [_PNG], len(_PNG)
    while at + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind, end = data[at + 4 : at + 8], at + 12 + length
        chunk = data[at:end]
        sound = zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")
        if kind == b"IEND":
            break
        if kind.decode("latin-1") in PNG_PIXELS or (kind in wanted and sound):
            kept.append(chunk)
        at = end
    return b"".join([*kept, _PNG_END])


def _jpeg(data: bytes, oriented: bool) -> bytes:
    """Keep all segments but comments and those of applications; JFIF's and Adobe's say how colours are stored."""
    wanted = (b"JFIF\0", b"Adobe", *(_ORIENTED if oriented else ()))
    kept, at = [data[:2]], 2
    while data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # filling
            at += 1
            continue
        if marker == 0xDA:  # the pixels
            break
        (length,) = struct.unpack_from(">H", data, at + 2)
        segment = data[at : at + 2 + length]
        if 0xE0 <= marker <= 0xEF or marker == 0xFE:
            keep = segment[4:].startswith(wanted) and length >= 14  # shorter ones of these are broken
        else:
            keep = True
        if keep:
            kept.append(segment)
        at += 2 + length
    return b"".join([*kept, data[at:]])


def _webp(data: bytes, oriented: bool) -> bytes:
    """Keep the chunks of pixels, and take the metadata out of the flags of the header."""
    wanted = (*_WEBP_PIXELS, b"EXIF") if oriented else _WEBP_PIXELS
    flags = _WEBP_FLAGS | (_WEBP_EXIF if oriented else 0)
    kept, at = [b"WEBP"], 12
    while at + 8 <= len(data):
        kind = data[at : at + 4]
        (length,) = struct.unpack_from("<I", data, at + 4)
        chunk = data[at : at + 8 + length + length % 2]
        if kind == b"VP8X":
            kept.append(chunk[:8] + bytes([chunk[8] & flags]) + chunk[9:])
        elif kind in wanted:
            kept.append(chunk)
        at += len(chunk)
    body = b"".join(kept)
    return b"RIFF" + struct.pack("<I", len(body)) + body
