"""Every kind of image that a user may hold, read into one: 8-bit RGB pixels with a name.

The rules, so that nobody has to guess (docs/pictures.md has them all):

* The orientation of EXIF or XMP is applied. Embedded colour profiles are ignored, as they were when CLIP was trained.
* Metadata that cannot be read never cost the pixels: the image is taken as upright.
* Transparent pixels are composited on white.
* Of an animation or a multi-page file the first frame is used.
* Of more than three bands the first three are red, green and blue, unless ``bands`` says otherwise.
* Integers of more than 8 bits are scaled by the smallest bit depth that holds their largest value (12-bit data in a
  16-bit file counts as 12 bits), in grey and colour alike: black stays black, nothing is clipped. Floats must lie in
  0..1.
* Arrays are ``(H, W, 3)`` RGB (not OpenCV's BGR) or ``(H, W)`` grey; tensors are ``(3, H, W)`` RGB.
* Files of more than `MAX_PIXELS` pixels are refused, unless ``max_pixels`` allows them.
* URLs are not fetched.

Whatever of this changed an image stands in ``LoadedImage.notes``.
"""

from __future__ import annotations

import io
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from PIL import Image

from ovseg.data.arrays import array_pixels, channel_bands, check_bands, tensor_pixels
from ovseg.data.decoding import MAX_PIXELS, Reading, decode, pil_pixels
from ovseg.data.kinds import IMAGE_SUFFIXES, why_unreadable
from ovseg.errors import InputError, at_least

_URL = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)  # two letters at least, so that "C:/" is none
_NAMED = 5  # files that a message names; the others are counted
_BESIDE = frozenset(
    ".aae .bib .cfg .csv .db .geojson .gpx .htm .html .ini .jgw .json .jsonl .kml .log .md .npy .npz .pgw .pkl .prj "
    ".py .pyc .rst .sh .srt .tfw .thm .tsv .txt .wld .xml .xmp .yaml .yml".split()
)
"""Suffixes of what ordinarily lies beside images and is none: a folder's are passed over without a word."""


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


class ReadOptions(TypedDict, total=False):
    """The options of `read_image`, for whoever passes them on."""

    bands: Sequence[int] | None
    max_pixels: int
    channels: str


def check_reading(bands: Sequence[int] | None = None, max_pixels: int = MAX_PIXELS, channels: str = "rgb") -> None:
    """Find mistakes in options of `read_image` before anything is read.

    Raises:
        ConfigError: No such order of channels, one beside bands, or not even one pixel is allowed.
        InputError: The bands are not three numbers, or one.
    """
    channel_bands(channels, bands)
    at_least("max_pixels", max_pixels, 1)
    if bands is not None:
        check_bands(bands)


@dataclass
class Inputs:
    """What was found where images were asked for.

    Attributes:
        images: In the order given: ``Path`` objects for everything on disk, the objects themselves for the rest.
        missing: What could not be looked at: paths that lead nowhere, folders without images.
        unread: Pictures in folders of kinds that are not read, by what to do about them.
        others: Other files in folders, but for text and the like.
        folders: Folders in folders that were not named themselves.
        opened: Folders that were named, without links.
    """

    images: list[Any] = field(default_factory=list)
    missing: list[InputError] = field(default_factory=list)
    unread: dict[str, list[Path]] = field(default_factory=dict)
    others: list[Path] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    opened: set[str] = field(default_factory=set)

    def unread_lines(self) -> list[str]:
        """Return a line for each reason why pictures were left out, with how many and which."""
        return [
            f"{name_some(paths)}, for {'it' if len(paths) == 1 else 'each'} {reason}"
            for reason, paths in self.unread.items()
        ]


def name_some(paths: Sequence[Path], what: str = "file") -> str:
    """Count files, name the first of them: ``7 files are left out (a.dng, b.dng, c.dng, d.dng, e.dng, ...)``."""
    named = ", ".join(path.name for path in paths[:_NAMED]) + (", ..." if len(paths) > _NAMED else "")
    return f"{len(paths)} {what}{' is' if len(paths) == 1 else 's are'} left out ({named})"


def read_image(
    source: Any, bands: Sequence[int] | None = None, max_pixels: int = MAX_PIXELS, channels: str = "rgb"
) -> LoadedImage:
    """Read one image from a path, a binary file object, a PIL image, a numpy array or a torch tensor.

    An image that was read already comes back as it is.

    Args:
        source: A path; an object with ``read()`` that gives bytes; a PIL image of any mode; an array ``(H, W, 3)`` or
            ``(H, W)``; a tensor ``(3, H, W)``. Arrays and tensors hold integers up to 65535, bools, or floats in 0..1.
        bands: Which bands of the source, counted from 1, are red, green and blue, or one for grey; arrays and tensors
            may then have any number of them. None is all of three, and the first three of more in files.
        max_pixels: Files of more pixels are refused.
        channels: The order of arrays and tensors of three bands: ``rgb``, or ``bgr`` as OpenCV has it. Files and PIL
            images say theirs themselves.

    Raises:
        ConfigError: There is no such order, or bands are given beside it.
        InputError: The source is missing, unreadable, damaged, not an image, too large, lacks a band, or has the wrong
            shape or values.
    """
    in_memory = channel_bands(channels, bands)
    if isinstance(source, LoadedImage):
        return source
    if isinstance(source, (str, os.PathLike)):
        return _read_path(_path_of(source), bands, max_pixels)
    if isinstance(source, Image.Image):
        reading = Reading(_base_name(getattr(source, "filename", None)), bands, max_pixels)
        pixels = _guarded_pixels(source, reading)
        return LoadedImage(pixels, reading.name, None, tuple(reading.notes))
    if isinstance(source, torch.Tensor):
        return _of_memory(*tensor_pixels(source, in_memory if source.ndim == 3 else bands))
    if isinstance(source, np.ndarray):
        return _of_memory(*array_pixels(source, bands=in_memory if source.ndim == 3 else bands))
    if hasattr(source, "read"):
        return _read_file_object(source, bands, max_pixels)
    hint = "; wrap bytes in io.BytesIO" if isinstance(source, (bytes, bytearray)) else ""
    hint = "; one image is expected here, give one after another" if isinstance(source, (list, tuple)) else hint
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
    found = find_inputs(sources)
    if found.missing:
        raise found.missing[0]
    for line in found.unread_lines():
        warnings.warn(line, UserWarning, stacklevel=2)
    return found.images


def find_inputs(sources: Any) -> Inputs:
    """Do as `expand_inputs` does, and tell of what is missing and of what was left out instead of raising.

    Raises:
        InputError: Nothing was given at all.
    """
    found = Inputs()
    _flatten(sources, found)
    found.folders = [folder for folder in found.folders if os.path.realpath(folder) not in found.opened]
    if not found.images and not found.missing and not found.unread:
        raise InputError("got no images; expected at least one file, folder or image")
    return found


def _flatten(source: Any, found: Inputs) -> None:
    """Add the images that a source stands for, folders opened."""
    if isinstance(source, (str, os.PathLike)):
        try:
            path = _path_of(source)
            _check_exists(path)
            if path.is_dir():
                found.opened.add(os.path.realpath(path))
                _open_folder(path, found)
            else:
                found.images.append(path)
        except InputError as error:
            found.missing.append(error)
    elif isinstance(source, (list, tuple, Iterator)) and not hasattr(source, "read"):
        for item in source:
            _flatten(item, found)
    else:
        found.images.append(source)


def _open_folder(folder: Path, found: Inputs) -> None:
    """Add what a folder holds.

    Raises:
        InputError: It cannot be read, or holds no images.
    """
    try:
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
        inner = [entry for entry in entries if entry.is_dir()]
        files = [entry for entry in entries if entry not in inner]  # links that lead nowhere and pipes, too
    except OSError as error:
        raise InputError(f"folder '{folder}' cannot be read ({error.strerror}); check its permissions") from error
    own = Inputs(folders=inner)
    for file in files:
        suffix = file.suffix.lower()
        if reason := why_unreadable(suffix):
            own.unread.setdefault(reason, []).append(file)
        elif suffix in IMAGE_SUFFIXES:
            _flatten(file, own)
        elif suffix not in _BESIDE:
            own.others.append(file)
    if not own.images and not own.missing:
        raise InputError(f"folder '{folder}' holds no images{_seen(own, files)}")
    found.images += own.images
    found.missing += own.missing
    found.others += own.others
    found.folders += inner
    for reason, paths in own.unread.items():
        found.unread.setdefault(reason, []).extend(paths)


def _seen(own: Inputs, files: Sequence[Path]) -> str:
    """Say what is in a folder without images."""
    if own.unread:
        return f" that can be read: {'; '.join(own.unread_lines())}"
    kinds = Counter(file.suffix.lower() or "without a suffix" for file in files)
    seen = [f"{count} {kind}" for kind, count in kinds.most_common(_NAMED)]
    seen += [f"{len(own.folders)} folders (name one of them)"] if own.folders else []
    expected = "expected files such as .jpg or .png directly in it"
    return f", but {', '.join(seen)}; {expected}" if seen else f", it is empty; {expected}"


def _path_of(source: str | os.PathLike[str]) -> Path:
    """Return a path; an empty one would be the folder that one happens to be in."""
    if not os.fspath(source):
        raise InputError("got an empty path as an image; expected the path of a file or folder")
    return Path(source)


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


def _of_memory(pixels: np.ndarray, note: str) -> LoadedImage:
    return LoadedImage(pixels, "image", None, (f"'image': {note}",) if note else ())


def _read_path(path: Path, bands: Sequence[int] | None, max_pixels: int) -> LoadedImage:
    """Read an image file."""
    _check_exists(path)
    if path.is_dir():
        raise InputError(f"'{path}' is a folder; expected one image file, or give the folder where several are allowed")
    if not path.is_file():  # a pipe or device could block or never end
        raise InputError(f"'{path}' is not an ordinary file; save the image to a file first")
    reading = Reading(str(path), bands, max_pixels)
    try:
        with path.open("rb") as stream:
            pixels = decode(stream, reading)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"image '{path}' cannot be opened ({reason}); check its permissions") from error
    return LoadedImage(pixels, path.name, path, tuple(reading.notes))


def _read_file_object(stream: Any, bands: Sequence[int] | None, max_pixels: int) -> LoadedImage:
    """Read an image from an open binary file, from where it stands to its end."""
    name = _base_name(getattr(stream, "name", None))
    try:
        data = stream.read()
    except (OSError, ValueError) as error:  # UnicodeDecodeError of a text file is a ValueError, so is a closed file
        raise InputError(f"file object '{name}' cannot be read ({error}); open it with mode 'rb'") from error
    if not isinstance(data, bytes):
        raise InputError(f"file object '{name}' gives {type(data).__name__}, expected bytes; open it with mode 'rb'")
    reading = Reading(name, bands, max_pixels)
    pixels = decode(io.BytesIO(data), reading)
    return LoadedImage(pixels, name, None, tuple(reading.notes))


def _base_name(name: Any) -> str:
    """Return the last part of a file name, or ``"image"`` where there is none (``<stdin>``, a descriptor, nothing)."""
    if not isinstance(name, (str, os.PathLike)):
        return "image"
    base = Path(name).name
    return base if base and not base.startswith("<") else "image"


def _guarded_pixels(image: Image.Image, reading: Reading) -> np.ndarray:
    """Convert a PIL image to ``(H, W, 3)`` uint8; what a decoder raises becomes an InputError that names the image."""
    try:
        return pil_pixels(image, reading)
    except InputError:
        raise
    except Exception as error:  # Pillow decodes here, and raises nearly anything
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise InputError(
            f"image '{reading.name}' is damaged ({reason}); expected a whole image, get the file again"
        ) from error
