"""The photographs that go with exported labels: copied as they are where every tool sees them the same way up."""

from __future__ import annotations

import filecmp
import shutil
from collections.abc import Collection
from pathlib import Path

from PIL import Image

from ovseg.data.images import IMAGE_SUFFIXES
from ovseg.errors import InputError
from ovseg.result.formats.base import PNG_MARK, Place, png_info
from ovseg.result.parts import Result
from ovseg.system.files import atomic_write

QUALITY = 95
"""Of photographs that become JPEG."""
_LONGEST = 65500  # pixels of a side of a JPEG

_ORIENTATION = 0x0112  # tag of EXIF; 1 is upright


def image_file(place: Place, folder: Path, read: Collection[str] = IMAGE_SUFFIXES) -> Path:
    """Return where the photograph goes below a folder: with its own suffix if it is copied, else as PNG.

    Args:
        place: Of the photograph.
        folder: Where all go.
        read: Suffixes that the tool reads, lower case; others are not copied.
    """
    copied = place.source.suffix.lower() in read and _is_copied(place.source)
    return folder / f"{place.name}{place.source.suffix if copied else '.png'}"


def is_source(path: Path, place: Place) -> bool:
    """Tell whether a file is the photograph itself: somebody labels the images of a data set."""
    return path.exists() and place.source.exists() and path.samefile(place.source)


def check_image(path: Path, place: Place, *labels: Path) -> None:
    """Refuse to replace an image of others.

    Args:
        path: From `image_file`.
        place: Of the image.
        labels: Files that we write with it: the image beside one of ours is ours, too.

    Raises:
        InputError: It is no image of an earlier run.
    """
    if not path.exists() or any(map(_is_ours, (path, *labels))):
        return
    if not place.source.exists() or not filecmp.cmp(path, place.source, shallow=False):
        raise InputError(f"'{path}' is no image of an earlier run and would be replaced; choose another --output")


def _is_ours(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return PNG_MARK in file.read(400)


def put_image(result: Result, place: Place, path: Path) -> None:
    """Write the photograph, complete or not at all; it is left where it is the source.

    Args:
        result: Of the photograph, which it holds the way up that it was labelled.
        place: Of the photograph.
        path: From `image_file`, or one that ends on ``.jpg``.

    Raises:
        InputError: It cannot be written, or is too long for a JPEG.
    """
    if is_source(path, place):
        return
    if path.suffix == ".jpg" and max(result.labels.shape) > _LONGEST and not is_copied(place, path):
        raise InputError(f"'{place.image}' has {max(result.labels.shape)} pixels in a row; JPEG holds up to {_LONGEST}")
    with atomic_write(path) as temporary:
        if is_copied(place, path):
            shutil.copyfile(place.source, temporary)
        elif path.suffix == ".jpg":
            Image.fromarray(result.image).save(temporary, format="JPEG", quality=QUALITY, comment=PNG_MARK)
        else:
            Image.fromarray(result.image).save(temporary, format="PNG", pnginfo=png_info(result))


def is_copied(place: Place, path: Path) -> bool:
    """Tell whether the photograph becomes a file as it is."""
    same = {".jpg", ".jpeg"} if path.suffix == ".jpg" else {path.suffix.lower()}
    return place.source.suffix.lower() in same and _is_copied(place.source)


def _is_copied(source: Path) -> bool:
    if source.suffix.lower() not in IMAGE_SUFFIXES:
        return False
    try:
        with Image.open(source) as image:
            return image.getexif().get(_ORIENTATION, 1) == 1
    except Exception:  # whatever Pillow raises at metadata that it cannot read, and at archives and videos
        return False
