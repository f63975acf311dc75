"""Images and labels of a run as Pascal VOC has them.

Values of ``SegmentationClass`` count the classes from 1, or are the user's own ids; a class called background is 0;
255 is void. ``SegmentationObject`` counts the regions of each image from 1. Both have VOC's palette.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ovseg.errors import InputError
from ovseg.result.exports import MARK, check_kept, keep, regions_of, write_lines
from ovseg.result.formats.base import PNG_MARK, Export, Place, Record, Written, png_info
from ovseg.result.images import QUALITY, check_image, is_copied, is_source, put_image
from ovseg.result.parts import Result
from ovseg.system.files import atomic_write
from ovseg.system.values import is_utf8
from ovseg.vocabulary import Vocabulary
from ovseg.vocabulary.colors import Color

VOID = 255
_BACKGROUND = "background"
_IGNORED = "ignored"  # what readers of labelmap.txt, who want every colour named, call void
_LABELS = "labelmap.txt"
_HEAD = f"# label:color_rgb:parts:actions ({MARK.decode()})\n"


class Voc(Export):
    """A data set of VOC's layout."""

    name = "voc"
    summary = "Pascal VOC: JPEGImages/, SegmentationClass/, SegmentationObject/, ImageSets/, labelmap.txt"
    uses = ("panoptic",)

    def __init__(self, *, own_ids: bool = False) -> None:
        """Choose values; see `ovseg.result.formats.labels.Labels`."""
        self.own_ids = own_ids

    def check(self, classes: Vocabulary, folder: Path, gone: Collection[Path] = ()) -> None:
        """Refuse classes that 8 bits and a line cannot hold, and a folder with other classes."""
        check_kept(self.home(folder) / _LABELS, labelmap(classes, self.own_ids), gone)

    def files(self, place: Place) -> dict[Path, bytes]:
        """Return the map of classes, that of objects, and the photograph."""
        classes, objects = (
            self.home(place.folder) / kind / f"{place.name}.png" for kind in ("SegmentationClass", "SegmentationObject")
        )
        image = self._image(place)
        return {classes: PNG_MARK, objects: PNG_MARK} | ({} if is_source(image, place) else {image: b""})

    def shared(self, folder: Path) -> dict[Path, bytes]:
        """Return the list of images, and that of classes."""
        listed = self.home(folder) / "ImageSets" / "Segmentation" / "trainval.txt"
        return {listed: b"", self.home(folder) / _LABELS: MARK}

    def check_place(self, place: Place) -> None:
        """Refuse to replace images and lists of others."""
        listed, labels = self.shared(place.folder)
        ours = labels.is_file() and MARK in labels.read_bytes()[:400]
        if listed.exists() and not ours:
            raise InputError(f"'{listed}' is no result of ovseg and would be overwritten; choose another --output")
        check_image(self._image(place), place, *self.files(place))

    def put(self, result: Result, place: Place) -> Written:
        """Write both maps, the photograph and the list of classes, each complete or not at all.

        Raises:
            InputError: There are more classes or regions than 8 bits can count, or the list cannot hold the name.
        """
        if not is_utf8(place.name) or place.name.splitlines() != [place.name]:
            raise InputError(f"'{place.image}': a line of VOC's list of images cannot hold this name; rename the image")
        regions, (classes, objects, *_) = regions_of(result), self.files(place)
        if len(regions.regions) >= VOID:
            raise InputError(
                f"'{place.image}' has {len(regions.regions)} regions; VOC counts up to {VOID - 1}: use --min-area"
            )
        image, notes = self._image(place), regions.notes
        put_image(result, place, image)
        keep(self.home(place.folder) / _LABELS, labelmap(result.classes, self.own_ids))
        values = np.array([*class_values(result.classes, self.own_ids), VOID], np.uint8)
        numbers = np.zeros(int(regions.ids.max(initial=0)) + 1, np.uint8)
        for number, one in enumerate(regions.regions, start=1):
            numbers[one.id] = number
        ids = regions.classes
        info = png_info(result)
        _save(values[ids], classes, info)
        _save(np.where(ids < 0, VOID, numbers[regions.ids]).astype(np.uint8), objects, info)
        if not is_source(image, place) and not is_copied(place, image):
            notes += (f"voc: photographs that are no upright JPEG were written as JPEG of quality {QUALITY}",)
        return Written(classes, {"name": place.name}, notes)

    def finish(self, records: Iterable[Record], classes: Vocabulary, folder: Path) -> None:
        """Write the list of images."""
        write_lines(next(iter(self.shared(folder))), (f"{one['name']}\n" for one in records))

    def _image(self, place: Place) -> Path:
        return self.home(place.folder) / "JPEGImages" / f"{place.name}.jpg"


def class_values(classes: Vocabulary, own_ids: bool) -> list[int]:
    """Return the value of each class: its own id, or its place from 1 and 0 for a class called background.

    Raises:
        InputError: There are no ids, or values above 254.
    """
    if own_ids:
        if classes.ids is None:
            raise InputError("own ids were asked for and the list of classes gives none; leave --own-ids")
        values = classes.ids
    else:
        counted = iter(range(1, len(classes) + 1))
        values = [0 if name.casefold() == _BACKGROUND else next(counted) for name in classes.names]
    if max(values) >= VOID:
        what = "an id" if own_ids else "a place"
        raise InputError(f"got {len(classes)} classes and {what} of {max(values)}; VOC counts up to {VOID - 1}")
    return values


def labelmap(classes: Vocabulary, own_ids: bool) -> str:
    """Return the list of classes: name, colour, and two fields that segmentation leaves empty.

    Raises:
        InputError: A name cannot stand there, or as `class_values`.
    """
    values = class_values(classes, own_ids)
    if wrong := [name for name in classes.names if ":" in name or name.startswith("#")]:
        raise InputError(f"{_LABELS} of VOC cannot hold the name {wrong[0]!r}: it divides fields by ':'; rename it")
    named = dict(zip(values, classes.names, strict=True))
    named.setdefault(0, _BACKGROUND)
    if _IGNORED not in classes.names:
        named[VOID] = _IGNORED
    colors = palette()
    return _HEAD + "".join(f"{named[i]}:{','.join(map(str, colors[i]))}::\n" for i in sorted(named))


def palette() -> list[Color]:
    """Return VOC's 256 colours: bits 0, 3, 6 of a value are the highest of red, 1, 4, 7 of green, 2, 5 of blue."""
    return [
        tuple(sum((value >> (3 * place + channel) & 1) << (7 - place) for place in range(3)) for channel in range(3))  # type: ignore[misc]
        for value in range(256)
    ]


def _save(values: np.ndarray, path: Path, info: PngInfo) -> None:
    picture = Image.fromarray(values).convert("P")
    picture.putpalette([part for color in palette() for part in color])
    with atomic_write(path) as temporary:
        picture.save(temporary, format="PNG", pnginfo=info)
