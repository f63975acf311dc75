"""Every kind of image that a user may hold, read into one: 8-bit RGB pixels with a name.

The rules, so that nobody has to guess:

* The EXIF orientation is applied. Embedded colour profiles are ignored, as they were when CLIP was trained.
* Transparent pixels are composited on white.
* Of an animation or a multi-page file the first frame is used, and ``LoadedImage.notes`` says so.
* Integers of more than 8 bits are scaled by the smallest bit depth that holds their largest value (12-bit data in a
  16-bit file counts as 12 bits): black stays black, nothing is clipped. Floats must lie in 0..1.
* Arrays are ``(H, W, 3)`` RGB (not OpenCV's BGR) or ``(H, W)`` grey; tensors are ``(3, H, W)`` RGB.
* URLs are not fetched.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps

from ovseg.errors import InputError

IMAGE_FORMATS: dict[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jfif"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "JPEG2000": (".jp2",),
    "AVIF": (".avif",),
}
"""Pillow's formats that are tried, with their suffixes. Not all of Pillow's: some of the others start programs."""

IMAGE_SUFFIXES = frozenset(suffix for suffixes in IMAGE_FORMATS.values() for suffix in suffixes)
"""What counts as an image in a folder, lower case; a file that is named by the user may have any name."""

_URL = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)  # two letters at least, so that "C:/" is none
_FLOAT_SLACK = 1e-4  # rounding of half precision just outside 0..1


@dataclass(frozen=True, eq=False)
class LoadedImage:
    """One image, ready for preprocessing.

    Attributes:
        pixels: ``(H, W, 3)`` uint8 RGB, contiguous, never shared with the source.
        name: File name where there is one, else ``"image"``.
        path: Where it was read from; None for images that were handed over in memory.
        notes: What the user should know about the reading, such as that only the first frame was used.
    """

    pixels: np.ndarray
    name: str
    path: Path | None = None
    notes: tuple[str, ...] = ()


def read_image(source: Any) -> LoadedImage:
    """Read one image from a path, a binary file object, a PIL image, a numpy array or a torch tensor.

    An image that was read already comes back as it is.

    Args:
        source: A path; an object with ``read()`` that gives bytes; a PIL image of any mode; an array ``(H, W, 3)`` or
            ``(H, W)``; a tensor ``(3, H, W)``. Arrays and tensors hold integers up to 65535, bools, or floats in 0..1.

    Raises:
        InputError: The source is missing, unreadable, damaged, not an image, or has the wrong shape or values.
    """
    if isinstance(source, LoadedImage):
        return source
    if isinstance(source, (str, os.PathLike)):
        return _read_path(Path(source))
    if isinstance(source, Image.Image):
        name = _base_name(getattr(source, "filename", None))
        return LoadedImage(_guarded_pixels(source, name), name)
    if isinstance(source, torch.Tensor):
        return LoadedImage(_tensor_pixels(source), "image")
    if isinstance(source, np.ndarray):
        return LoadedImage(_array_pixels(source), "image")
    if hasattr(source, "read"):
        return _read_file_object(source)
    hint = "; wrap bytes in io.BytesIO" if isinstance(source, (bytes, bytearray)) else ""
    raise InputError(
        f"got {type(source).__name__} as an image; expected a path, an open binary file, a PIL image, a numpy array "
        f"(H, W, 3) or a tensor (3, H, W){hint}"
    )


def expand_inputs(sources: Any) -> list[Any]:
    """Turn files, folders and (nested) lists of them into one flat list, in the order given.

    A folder stands for the image files directly in it, sorted by name; hidden files and sub-folders are left out.
    Paths are checked here, before any work starts; images in memory pass through untouched.

    Args:
        sources: Anything that `read_image` takes, a folder, or a list, tuple or generator of these.

    Returns:
        ``Path`` objects for everything on disk, the objects themselves for everything else; at least one.

    Raises:
        InputError: A path does not exist, a folder holds no images, or nothing was given at all.
    """
    found = list(_flatten(sources))
    if not found:
        raise InputError("got no images; expected at least one file, folder or image")
    return found


def _flatten(source: Any) -> Iterator[Any]:
    """Yield the images that a source stands for, folders opened."""
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        _check_exists(path)
        if not path.is_dir():
            yield path
            return
        try:
            entries = sorted(entry for entry in path.iterdir() if entry.suffix.lower() in IMAGE_SUFFIXES)
            images = [entry for entry in entries if entry.is_file() and not entry.name.startswith(".")]
        except OSError as error:
            raise InputError(f"folder '{path}' cannot be read ({error.strerror}); check its permissions") from error
        if not images:
            raise InputError(f"folder '{path}' holds no images; expected files such as .jpg or .png directly in it")
        yield from images
    elif isinstance(source, (list, tuple, Iterator)) and not hasattr(source, "read"):
        for item in source:
            yield from _flatten(item)
    else:
        yield source


def _check_exists(path: Path) -> None:
    """Raise the fitting error for a path that leads nowhere."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        if _URL.match(str(path)):
            raise InputError(f"'{path}' is a URL and URLs are not fetched; download it and give the file") from error
        raise InputError(f"image '{path}' not found; check the path (relative paths start at {Path.cwd()})") from error
    except (OSError, ValueError) as error:  # no permission, name too long, zero byte in the name
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"image '{str(path)[:200]}' cannot be opened ({reason}); check the path") from error


def _read_path(path: Path) -> LoadedImage:
    """Read an image file."""
    _check_exists(path)
    if path.is_dir():
        raise InputError(f"'{path}' is a folder; expected one image file, or give the folder where several are allowed")
    if not path.is_file():  # a pipe or device could block or never end
        raise InputError(f"'{path}' is not an ordinary file; save the image to a file first")
    try:
        with path.open("rb") as stream:
            pixels, notes = _decode(stream, str(path))
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"image '{path}' cannot be opened ({reason}); check its permissions") from error
    return LoadedImage(pixels, path.name, path, notes)


def _read_file_object(stream: Any) -> LoadedImage:
    """Read an image from an open binary file, from where it stands to its end."""
    name = _base_name(getattr(stream, "name", None))
    try:
        data = stream.read()
    except (OSError, ValueError) as error:  # UnicodeDecodeError of a text file is a ValueError, so is a closed file
        raise InputError(f"file object '{name}' cannot be read ({error}); open it with mode 'rb'") from error
    if not isinstance(data, bytes):
        raise InputError(f"file object '{name}' gives {type(data).__name__}, expected bytes; open it with mode 'rb'")
    pixels, notes = _decode(io.BytesIO(data), name)
    return LoadedImage(pixels, name, None, notes)


def _base_name(name: Any) -> str:
    """Return the last part of a file name, or ``"image"`` where there is none (``<stdin>``, a descriptor, nothing)."""
    if not isinstance(name, (str, os.PathLike)):
        return "image"
    base = Path(name).name
    return base if base and not base.startswith("<") else "image"


def _decode(stream: BinaryIO, name: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Decode an encoded image; returns pixels ``(H, W, 3)`` uint8 and notes."""
    head = stream.read(512)
    stream.seek(0)
    if not head:
        raise InputError(f"image '{name}' is empty (0 bytes); get the file again, or seek(0) if it was read before")
    Image.init()
    try:
        image = Image.open(stream, formats=[kind for kind in IMAGE_FORMATS if kind in Image.OPEN])
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(_bomb(name)) from error
    except Exception as error:  # decoders raise nearly anything: SyntaxError, struct.error, KeyError, ...
        what = "holds text, not an image" if _is_text(head) else "is damaged or in an unknown format"
        formats = ", ".join(IMAGE_FORMATS)
        raise InputError(f"'{name}' {what}; expected {formats}: convert it or get it again") from error
    with image:
        pixels = _guarded_pixels(image, name)
        try:
            frames = getattr(image, "n_frames", 1)
        except Exception:  # the first frame is whole; damage further on concerns nobody
            frames = 1
    # Phones store a second picture (depth, gain map) behind the first in the MPO form of JPEG: not worth a note.
    notes = (f"'{name}' has {frames} frames; the first was used",) if frames > 1 and image.format != "MPO" else ()
    return pixels, notes


def _is_text(head: bytes) -> bool:
    """Tell whether the beginning of a file reads as text."""
    try:
        text = head.decode("utf-8", errors="strict" if len(head) < 512 else "ignore")
    except UnicodeDecodeError:
        return False
    return all(char.isprintable() or char.isspace() for char in text)


def _bomb(name: str) -> str:
    """Say that Pillow refuses an image for its size; it does so at twice its limit."""
    limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
    return f"image '{name}' has more than {limit:,} pixels; shrink it, or raise PIL.Image.MAX_IMAGE_PIXELS"


def _guarded_pixels(image: Image.Image, name: str) -> np.ndarray:
    """Convert a PIL image to ``(H, W, 3)`` uint8; what a decoder raises becomes an InputError that names the image."""
    try:
        return _pil_pixels(image, name)
    except InputError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(_bomb(name)) from error
    except Exception as error:  # Pillow decodes here; see _decode
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise InputError(f"image '{name}' is damaged ({reason}); expected a whole image, get the file again") from error


def _pil_pixels(image: Image.Image, name: str) -> np.ndarray:
    """Bring a PIL image of any mode to ``(H, W, 3)`` uint8 RGB, upright."""
    if 0 in image.size:
        raise InputError(f"image '{name}' has size {image.width}x{image.height}; expected at least 1x1 pixel")
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        return _array_pixels(np.asarray(image), f"image '{name}'")
    if image.mode in ("LA", "PA", "La", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"), order="C")


def _tensor_pixels(tensor: torch.Tensor) -> np.ndarray:
    """Bring a tensor ``(3, H, W)`` to ``(H, W, 3)`` uint8."""
    shape = tuple(tensor.shape)
    if tensor.ndim != 3 or shape[0] != 3:
        fix = "give (3, H, W)"
        if tensor.ndim == 4:
            fix = "give its images as a list: list(tensor)"
        elif tensor.ndim == 3 and shape[2] == 3:
            fix = "use tensor.permute(2, 0, 1)"
        elif tensor.ndim == 3 and shape[0] == 1:
            fix = "use tensor.expand(3, -1, -1)"
        raise InputError(f"image tensor has shape {shape}; expected (3, H, W) RGB; {fix}")
    if tensor.is_complex():
        raise InputError(f"image tensor holds {tensor.dtype}; expected uint8, or floats in 0..1")
    plain = tensor.detach().cpu()
    if plain.is_floating_point():
        plain = plain.float()  # numpy has no bfloat16
    return _array_pixels(plain.permute(1, 2, 0).numpy(), "image tensor")


def _array_pixels(array: np.ndarray, what: str = "image array") -> np.ndarray:
    """Bring an array ``(H, W, 3)`` or ``(H, W)`` to ``(H, W, 3)`` uint8.

    Args:
        array: uint8, bool, other integers up to 16 bits, or floats in 0..1.
        what: What it is called in messages.
    """
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        fix = "give one image in that shape"
        if array.ndim == 4:
            fix = "give its images as a list: list(array)"
        elif array.ndim == 3 and array.shape[0] == 3:
            fix = "use array.transpose(1, 2, 0)"
        elif array.ndim == 3 and array.shape[2] == 4:
            fix = "use PIL.Image.fromarray(array) to keep its transparency, or array[..., :3]"
        elif array.ndim == 3 and array.shape[2] == 1:
            fix = "use array[..., 0]"
        raise InputError(f"{what} has shape {array.shape}; expected (H, W, 3) RGB or (H, W) grey; {fix}")
    if array.size == 0:
        raise InputError(f"{what} has shape {array.shape}, so no pixels; expected at least 1x1")
    scaled = _to_uint8(array, what)
    return np.array(scaled if scaled.ndim == 3 else np.repeat(scaled[..., None], 3, axis=2), order="C")


def _to_uint8(array: np.ndarray, what: str) -> np.ndarray:
    """Scale bools, integers and floats to 0..255; the shape stays."""
    if array.dtype == np.uint8:
        return array
    kind = array.dtype.kind
    if kind == "b":
        return array.astype(np.uint8) * 255
    if kind not in "uif":
        raise InputError(f"{what} holds {array.dtype}; expected uint8, or floats in 0..1")
    low, high = float(array.min()), float(array.max())  # NaN and infinities come through here
    if not np.isfinite([low, high]).all():
        raise InputError(f"{what} holds NaN or infinite values; expected finite numbers, use numpy.nan_to_num")
    got = f"{what} holds {array.dtype} values from {low:g} to {high:g}"
    if kind == "f":
        if low < -_FLOAT_SLACK or high > 1 + _FLOAT_SLACK:
            fix = "divide by 255" if low >= 0 and high <= 255 else "undo the normalisation or rescale it"
            raise InputError(f"{got}; expected floats in 0..1; {fix}")
        return np.rint(array.clip(0, 1) * np.float32(255)).astype(np.uint8)
    if low < 0 or high > 65535:
        raise InputError(f"{got}; expected 0..255 (or at most 0..65535); rescale it")
    bits = max(8, int(high).bit_length())
    return np.rint(array * np.float32(255 / (2**bits - 1))).astype(np.uint8)
