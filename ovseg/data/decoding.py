"""From the bytes of an image file to 8-bit RGB pixels, upright, and what the user should know of the way there."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO
from xml.parsers import expat

import numpy as np
from PIL import Image

from ovseg.data.arrays import STRIP_PIXELS, array_pixels, check_bands, full_scale
from ovseg.data.deep import SAMPLES, Bands, MissingCodec, has_eight_bits, is_deep, read_bands
from ovseg.data.kinds import IMAGE_FORMATS, is_tiff, open_image, why_unreadable
from ovseg.data.metadata import PNG_PIXELS, broken_chunks, without_metadata
from ovseg.data.orientation import UPRIGHT, read_orientation, turn, turn_back
from ovseg.errors import InputError
from ovseg.system.warned import collected

MAX_PIXELS = 178_956_970
"""Larger images are refused unless more is allowed: a small file can claim a size that fills the memory."""

_HEAD = 4096
_USUAL = (1, 2, 3)
_ALPHA_MODES = ("LA", "PA", "La", "RGBA", "RGBa")
_LOOSE_ALPHA = ("BMP", "TGA")  # formats in which many programs leave the fourth byte at zero


@dataclass
class Reading:
    """How an image is read, and what came up.

    Attributes:
        name: What it is called in messages.
        bands: The bands that become red, green and blue, from 1, or one for grey; None for the usual ones.
        max_pixels: Larger images are refused.
        notes: What the user should know; grows.
    """

    name: str
    bands: Sequence[int] | None = None
    max_pixels: int = MAX_PIXELS
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Add a note on the image, if there is any text."""
        if text:
            self.notes.append(f"'{self.name}': {text}")

    def check_size(self, width: int, height: int) -> None:
        """Refuse a size.

        Raises:
            InputError: There are too many pixels, or none.
        """
        if width < 1 or height < 1:
            raise InputError(f"image '{self.name}' has size {width}x{height}; expected at least 1x1 pixel")
        if width * height > self.max_pixels:
            raise InputError(
                f"image '{self.name}' is {width}x{height}, more than {self.max_pixels:,} pixels; shrink it, or allow "
                f"it by --max-pixels {width * height} (in Python max_pixels=)"
            )


def decode(stream: BinaryIO, reading: Reading) -> np.ndarray:
    """Decode an image file.

    Where its metadata are broken it is read without them.

    Args:
        stream: The file, from its beginning.
        reading: How; gets the notes.

    Returns:
        Pixels ``(H, W, 3)`` uint8 RGB.

    Raises:
        InputError: It is no image, damaged, of a kind that is not read, or too large.
    """
    if reading.bands is not None:
        check_bands(reading.bands)
    head = stream.read(_HEAD)
    if not head:
        raise InputError(
            f"image '{reading.name}' is empty (0 bytes); get the file again, or seek(0) if it was read before"
        )
    with collected() as warned:
        pixels = _decode(stream, head, reading)
    told = any("EXIF" in note for note in reading.notes)
    for line in warned:
        reading.note("" if told and "EXIF" in line else line)
    return pixels


def _decode(stream: BinaryIO, head: bytes, reading: Reading) -> np.ndarray:
    stream.seek(0)
    wrong = broken_chunks(stream)
    if pixels_wrong := [kind for kind in wrong if kind in PNG_PIXELS]:
        raise InputError(_damaged(head, ValueError(f"wrong checksum of {', '.join(pixels_wrong)}"), reading.name))
    which = f" ({', '.join(wrong)})" if wrong else ""
    try:
        pixels = _pixels_of_file(stream, head, reading)
    except InputError:
        raise
    except Exception as error:  # readers raise nearly anything: SyntaxError, struct.error, KeyError, ...
        return _bare_pixels(stream, head, reading, which, error)
    reading.note(f"its metadata are broken{which}; its pixels are sound" if wrong else "")
    return pixels


def _bare_pixels(stream: BinaryIO, head: bytes, reading: Reading, which: str, error: Exception) -> np.ndarray:
    """Read a file without its metadata, at first with what says which way up it is.

    Args:
        stream: The file.
        head: Its first bytes.
        reading: How; gets the notes.
        which: Metadata that are known to be broken.
        error: What came of reading it with them.

    Raises:
        InputError: It cannot be read without them either.
    """
    stream.seek(0)
    data = stream.read()
    for oriented in (True, False):
        bare = without_metadata(data, oriented)
        if bare is None or bare == data:
            continue
        again = Reading(reading.name, reading.bands, reading.max_pixels)
        try:
            pixels = _pixels_of_file(io.BytesIO(bare), bare[:_HEAD], again)
        except InputError:
            raise
        except Exception as other:  # what is left is broken, too, and says more of it
            error = other
            continue
        told = any("orientation" in note for note in again.notes)
        reading.note(f"its metadata are broken{which}: it was read without{'' if told else ', as upright'}")
        reading.notes += again.notes
        return pixels
    raise InputError(_damaged(head, error, reading.name)) from error


def _damaged(head: bytes, error: Exception, name: str) -> str:
    """Say what is wrong with a file that nothing could read."""
    if reason := why_unreadable(Path(name).suffix.lower()):
        return f"'{name}' {reason}"
    expected = f"expected {', '.join(IMAGE_FORMATS)}: convert it or get it again"
    if _is_text(head):
        return f"'{name}' holds text, not an image; {expected}"
    if type(error) is LookupError or isinstance(error, SyntaxError):
        return f"'{name}' is damaged or in an unknown format; {expected}"
    reason = " ".join(str(error).split())[:120] or type(error).__name__
    return f"image '{name}' is damaged ({reason}); expected a whole image, get the file again"


def _is_text(head: bytes) -> bool:
    """Tell whether the beginning of a file reads as text."""
    try:
        text = head[:512].decode("utf-8", errors="strict" if len(head) < 512 else "ignore")
    except UnicodeDecodeError:
        return False
    return all(char.isprintable() or char.isspace() for char in text)


def _pixels_of_file(stream: BinaryIO, head: bytes, reading: Reading) -> np.ndarray:
    try:
        image = open_image(stream, head, reading.name)
    except InputError:
        raise
    except Exception:
        if not is_tiff(head):
            raise
        return _deep_pixels(stream, reading)  # of bands that Pillow has no name for
    with image:
        reading.check_size(*image.size)
        if not is_deep(image, head):
            pixels = pil_pixels(image, reading)
        else:
            orientation, note = read_orientation(image)
            try:
                pixels = _deep_pixels(stream, reading, orientation)
                reading.note(note)
            except MissingCodec:
                if reading.bands is not None or not has_eight_bits(image):
                    raise
                pixels = pil_pixels(image, reading)
                reading.note(_usual_bands(image.tag_v2[SAMPLES], len(image.getbands()) >= 3))  # type: ignore[attr-defined]
        reading.note(_profile_note(image))
        frames = _frames(image)
    if frames > 1 and (image.format != "MPO" or reading.name.lower().endswith(".mpo")):
        # Phones store a second picture (depth, gain map) behind the first in JPEGs: not worth a note.
        reading.notes.append(f"'{reading.name}' has {frames} frames; the first was used")
    return pixels


def _profile_note(image: Image.Image) -> str:
    """Say what of the metadata that are not used anyway is broken."""
    profile, xmp = image.info.get("icc_profile"), image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    broken = []
    if isinstance(profile, bytes) and profile and profile[36:40] != b"acsp":  # the mark of every ICC profile
        broken.append("colour profile")
    if xmp and not _is_xml(xmp):
        broken.append("XMP data")
    return f"its {' and '.join(broken)} cannot be read; its pixels are sound" if broken else ""


def _is_xml(text: bytes | str) -> bool:
    try:
        expat.ParserCreate().Parse(text.strip("\0 ") if isinstance(text, str) else text.strip(b"\0 "), True)
    except (expat.ExpatError, ValueError):  # ValueError: lone surrogates
        return False
    return True


def _frames(image: Image.Image) -> int:
    try:
        return getattr(image, "n_frames", 1)
    except Exception:  # the first frame is whole; damage further on concerns nobody
        return 1


def pil_pixels(image: Image.Image, reading: Reading) -> np.ndarray:
    """Bring a PIL image of any mode to ``(H, W, 3)`` uint8 RGB, upright.

    Raises:
        InputError: It is too large, lacks the bands that were asked for, or holds values out of range.
        Exception: Whatever Pillow raises for damaged files.
    """
    reading.check_size(*image.size)
    as_tiff = read_orientation(image)[1] if hasattr(image, "tag_v2") else ""  # Pillow turns TIFFs when it loads them
    image.load()
    orientation, note = read_orientation(image)
    reading.note(as_tiff or note)
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image)
        pixels, scaled = array_pixels(values, f"image '{reading.name}'", reading.bands)
        reading.note(scaled)
        if "transparency" in image.info and reading.bands is None:  # one grey of 16 bits stands for it
            clear = values == image.info["transparency"]
            pixels[clear] = 255
            reading.note("its transparent parts became white" if clear.any() else "")
        return np.ascontiguousarray(turn(pixels, orientation))
    out = np.empty((*turn(np.empty((image.height, image.width, 0)), orientation).shape[:2], 3), dtype=np.uint8)
    stored = turn_back(out, orientation)
    convert = _converter(image, reading)
    step = max(1, STRIP_PIXELS // image.width)
    for top in range(0, image.height, step):
        bottom = min(top + step, image.height)
        whole = (top, bottom) == (0, image.height)
        stored[top:bottom] = convert(image if whole else image.crop((0, top, image.width, bottom)))
    return out


def _converter(image: Image.Image, reading: Reading) -> Callable[[Image.Image], np.ndarray]:
    """Return what turns a strip of an image into RGB, and note what gets lost by it."""
    clear = image.mode in _ALPHA_MODES or "transparency" in image.info
    if reading.bands is not None:
        bands = reading.bands
        if image.mode in ("1", "P", "PA"):
            return lambda strip: _chosen(strip.convert("RGBA" if clear else "RGB"), bands, reading.name)
        return lambda strip: _chosen(strip, bands, reading.name)
    if clear:
        least, most = _opacity(image)
        if most == 0 and image.format in _LOOSE_ALPHA:
            reading.note("all of it is transparent, as some programs write what is opaque; its colours were used")
            return lambda strip: np.asarray(strip.convert("RGB"))
        reading.note("its transparent parts became white" if least < 255 else "")
        return _on_white
    if image.mode == "CMYK":
        reading.note("its CMYK was converted to RGB without a colour profile")
    return lambda strip: np.asarray(strip if strip.mode == "RGB" else strip.convert("RGB"))


def _chosen(strip: Image.Image, bands: Sequence[int], name: str) -> np.ndarray:
    return array_pixels(np.asarray(strip), f"image '{name}'", bands)[0]


def _opacity(image: Image.Image) -> tuple[int, int]:
    """Return the least and the most opaque a pixel is, 0..255; where one colour stands for transparency, it may be."""
    if image.mode not in _ALPHA_MODES:
        return 0, 255
    extremes: Any = image.getextrema()  # of each band
    return extremes[-1]


def _on_white(strip: Image.Image) -> np.ndarray:
    strip = strip.convert("RGBA")
    return np.asarray(Image.alpha_composite(Image.new("RGBA", strip.size, "white"), strip).convert("RGB"))


def _deep_pixels(stream: BinaryIO, reading: Reading, orientation: int = UPRIGHT) -> np.ndarray:
    """Read a picture of many bands or bits; the usual bands are the first three, or the first of two."""
    stream.seek(0)
    found = read_bands(stream.read(), reading.name, reading.check_size)
    values, what = found.values, f"image '{reading.name}'"
    bands = reading.bands
    if bands is None:
        colours = values.shape[2] - found.alpha
        bands = _USUAL if colours >= 3 else _USUAL[:1]
        reading.note(_usual_bands(values.shape[2], colours >= 3) if colours not in (1, 3) else "")
    pixels, scaled = array_pixels(values, what, bands)
    if found.alpha and reading.bands is None:
        pixels = _blend_on_white(pixels, found, reading)
    reading.note(scaled)
    return np.ascontiguousarray(turn(pixels, orientation))


def _usual_bands(count: int, colour: bool) -> str:
    """Say which bands of many were used."""
    used = "1, 2, 3 were used as red, green and blue" if colour else "1 was used as grey"
    return f"it has {count} bands, of which {used}; --bands (in Python bands=) chooses others"


def _blend_on_white(pixels: np.ndarray, found: Bands, reading: Reading) -> np.ndarray:
    """Put 8-bit colours on white where the last band says that they are not opaque."""
    alpha = found.values[..., -1:]
    whole = full_scale(found.values)  # of all bands: opaque in a file of 12 bits is 4095, not 65535
    if alpha.min() >= whole:
        return pixels
    reading.note("its transparent parts became white")
    share = alpha.astype(np.float32) / np.float32(whole)
    colours = pixels if found.premultiplied else pixels * share
    return np.rint((colours + 255 * (1 - share)).clip(0, 255)).astype(np.uint8)
