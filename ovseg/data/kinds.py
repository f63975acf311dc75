"""Kinds of image files: which are read, which are not and what then helps; known by their names and first bytes."""

from __future__ import annotations

import importlib
import importlib.util
import logging
from collections.abc import Callable
from typing import Any, BinaryIO

from PIL import Image

from ovseg.errors import InputError
from ovseg.system.warned import collecting

IMAGE_FORMATS: dict[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jfif", ".jpe", ".jif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp", ".dib"),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "TGA": (".tga",),
    "AVIF": (".avif",),
    "HEIF": (".heic", ".heif", ".hif"),
}
"""Formats that are tried, with their suffixes. Not all of Pillow's: some of the others start programs."""

IMAGE_SUFFIXES = frozenset(suffix for suffixes in IMAGE_FORMATS.values() for suffix in suffixes)
"""What counts as an image in a folder, lower case; a file that is named by the user may have any name."""

_RAW = (
    ".3fr .arw .cr2 .cr3 .crw .dcr .dng .erf .fff .gpr .iiq .k25 .kdc .mef .mos .mrw .nef .nrw .orf .pef .raf .raw "
    ".rw2 .rwl .sr2 .srf .srw .x3f"
)
_RAW_FIX = "is a camera's raw file; develop it to a JPEG or TIFF first, for example with RawTherapee or darktable-cli"
_DRAWING_FIX = "is a drawing or document, not a picture of pixels; export it as PNG"
_OTHER_FIX = "is of a kind that is not read; convert it to PNG or TIFF"
FOREIGN: dict[str, str] = {
    **dict.fromkeys(_RAW.split(), _RAW_FIX),
    **dict.fromkeys((".svg", ".svgz", ".eps", ".ps", ".pdf", ".ai", ".emf", ".wmf"), _DRAWING_FIX),
    **dict.fromkeys(
        ".bpg .cur .dcm .dds .exr .fits .flif .hdr .heics .icns .ico .jxl .jxr .kra .pcx .pfm .psb .psd .qoi .sgi .wdp "
        ".xcf".split(),
        _OTHER_FIX,
    ),
}
"""Suffixes of pictures that are not read, lower case, and what to do about them."""

_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"mif2"}
_TIFF_HEADS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_DNG_VERSION = 50706  # a tag of TIFF
_TGA_MARK = b"TRUEVISION-XFILE"


def is_tiff(head: bytes) -> bool:
    """Tell whether a file begins as TIFFs do."""
    return head[:4] in _TIFF_HEADS


def missing_reader(head: bytes) -> str:
    """Say what to install for a file whose first bytes are known but which nothing here reads; empty if all is there.

    Args:
        head: Its first bytes, 64 are enough.
    """
    if head[4:8] != b"ftyp":
        return ""
    brands = {head[at : at + 4] for at in range(8, min(len(head), int.from_bytes(head[:4], "big")), 4)}
    if b"avif" in brands or b"avis" in brands:
        Image.init()
        fix = 'is AVIF, which this Pillow does not read; run `pip install -U "pillow>=11.3"`, or convert it to JPEG'
        return "" if _accepts("AVIF", head) or _heif_opener() else fix
    if brands & _HEIF_BRANDS:
        return (
            "" if _heif_opener() else "is HEIC, which pillow-heif reads; run `pip install 'ovseg[heif]'`, or convert it"
        )
    return ""


def why_unreadable(suffix: str) -> str:
    """Say of a suffix, lower case, what to do about files of that name; empty for kinds that are read."""
    if suffix in IMAGE_FORMATS["HEIF"]:
        return missing_reader(b"\0\0\0\x10ftypheic\0\0\0\0")
    if suffix in IMAGE_FORMATS["AVIF"]:
        return missing_reader(b"\0\0\0\x10ftypavif\0\0\0\0")
    return FOREIGN.get(suffix, "")


def open_image(stream: BinaryIO, head: bytes, name: str) -> Image.Image:
    """Open an image by Pillow's readers, without `Image.open`, whose limit of pixels is one of the whole process.

    Args:
        stream: The file.
        head: Its first bytes.
        name: What it is called.

    Raises:
        InputError: It is of a kind that is known and not read.
        Exception: Whatever a reader raises; LookupError where none takes it.
    """
    if reason := missing_reader(head):
        raise InputError(f"'{name}' {reason}")
    Image.init()
    logging.getLogger("PIL.TiffImagePlugin").addFilter(_unheard)  # one more time changes nothing
    failure: Exception = LookupError("no reader takes it")
    for kind in IMAGE_FORMATS:
        factory = _heif_opener() if kind == "HEIF" else Image.OPEN[kind][0] if kind in Image.OPEN else None
        if factory is None or not _accepts(kind, head) or (kind == "TGA" and not _is_tga(stream, name)):
            continue
        stream.seek(0)
        try:
            image: Image.Image = factory(stream, "")
        except Exception as error:  # readers raise nearly anything: SyntaxError, struct.error, KeyError, ...
            failure = error
            continue
        tags = getattr(image, "tag_v2", None)  # raw files are TIFFs, too, whose first picture is a small preview
        if tags is not None and (_DNG_VERSION in tags or name.lower().endswith(tuple(_RAW.split()))):
            raise InputError(f"'{name}' {_RAW_FIX}")
        return image
    raise failure


def _unheard(_: logging.LogRecord) -> bool:
    """Drop what Pillow logs of a TIFF while a file is read: it raises as well, and others then read the file."""
    return not collecting()


def _accepts(kind: str, head: bytes) -> bool:
    if kind == "HEIF":
        return head[4:8] == b"ftyp"
    _, accept = Image.OPEN.get(kind, (None, None))
    answer: Any = kind in Image.OPEN and (accept is None or accept(head[:16]))
    return answer is not False and bool(answer) and not isinstance(answer, str)  # a text says what Pillow lacks


def _heif_opener() -> Callable[..., Image.Image] | None:
    """Return what opens HEIC, of the package pillow-heif; None where it is not installed."""
    if importlib.util.find_spec("pillow_heif") is None:
        return None
    opener: Callable[..., Image.Image] = importlib.import_module("pillow_heif.as_plugin").HeifImageFile
    return opener


def _is_tga(stream: BinaryIO, name: str) -> bool:
    """Tell by its name or end whether a file is TGA, whose beginning says nothing."""
    if name.lower().endswith(IMAGE_FORMATS["TGA"]):
        return True
    stream.seek(0, 2)
    stream.seek(max(0, stream.tell() - 26))
    return _TGA_MARK in stream.read(26)
