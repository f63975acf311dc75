"""Images and labels of a run as a data set of the layout ``images/ + labels/ + classes.txt``, to check and to train on.

Labels have 8 bits and 255 for no class, with more than 255 classes 16 bits and 65535. Images are copied, so that the
folder is whole wherever it goes; those that are turned by EXIF, which not every tool heeds, or whose suffix no data set
has, are written as PNG the way up that they were labelled.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection
from pathlib import Path

from ovseg.data.images import IMAGE_SUFFIXES
from ovseg.errors import InputError, VocabularyError
from ovseg.result.formats.base import PNG_MARK, Format, Place, Written
from ovseg.result.formats.labels import PNG_NO_CLASS, label_values, save_ids
from ovseg.result.formats.png import VOID
from ovseg.result.images import check_image, image_file, is_source, put_image
from ovseg.result.parts import Result
from ovseg.system.files import atomic_write
from ovseg.vocabulary import Vocabulary

CLASSES = "classes.txt"
_SPELLED = [suffix for one in sorted(IMAGE_SUFFIXES) for suffix in (one, one.upper(), one.title())]


class DatasetFormat(Format):
    """A folder that `ovseg datasets check` reads as it is."""

    name = "dataset"
    ending = ".png"
    summary = "images/, labels/ and classes.txt, as `ovseg datasets check` and `ovseg train --data` read them"
    mark = PNG_MARK

    def endings(self) -> tuple[str, ...]:
        """Return none: its files lie in folders of their own."""
        return ()

    def files(self, place: Place) -> dict[Path, bytes]:
        """Return the label, which is replaced only if we wrote it, and the image, unless it lies there already."""
        image = _image(place)
        return {_label(place): self.mark} | ({} if is_source(image, place) else {image: b""})

    def check(self, classes: Vocabulary, folder: Path, gone: Collection[Path] = ()) -> None:
        """Refuse words that a line of classes.txt cannot carry, and a folder with other classes."""
        label_values(classes, own_ids=False)
        lines = _lines(classes)
        with tempfile.TemporaryDirectory() as temporary:
            probe = Path(temporary) / CLASSES
            probe.write_bytes(lines)
            try:
                readable = [entry.names for entry in Vocabulary.parse(probe)]
            except VocabularyError as error:
                raise InputError(f"{CLASSES} cannot hold these words ({error}); rename the class") from error
        wrong = [entry.name for entry in classes if entry.names not in readable]
        if wrong or len(readable) != len(classes):
            raise InputError(f"{CLASSES} cannot hold the words {wrong[:3]}: they would be read as others; rename them")
        there = folder / CLASSES
        if not there.exists() or there.read_bytes() == lines:
            return
        if {*(folder / "labels").rglob("*.png")} - {*gone} or not gone:  # a list is in use as long as there are labels
            raise InputError(f"'{there}' lists other classes, and its labels would change; choose another --output")

    def check_place(self, place: Place) -> None:
        """Refuse to replace images of others, or to put a second image beside one label."""
        image, label = _image(place), _label(place)
        check_image(image, place, label)
        base, own = os.path.splitext(image)  # its folder may hold as many images as there are places to check
        others = (f"{base}{suffix}" for suffix in _SPELLED if suffix.lower() != own.lower())
        if other := next(filter(os.path.exists, others), None):
            raise InputError(f"'{other}' would share its label with '{image.name}'; choose another --output")

    def write(self, result: Result, path: Path) -> None:
        """Write the label alone.

        Raises:
            InputError: There are more classes than it can count.
        """
        save_ids(result, path, VOID if len(result.classes) <= VOID else PNG_NO_CLASS)

    def put(self, result: Result, place: Place) -> Written:
        """Write label, image and classes, each complete or not at all; the image is left where it is the source."""
        label, image = _label(place), _image(place)
        self.save(result, label)
        put_image(result, place, image)
        with atomic_write(place.folder / CLASSES) as temporary:
            temporary.write_bytes(_lines(result.classes))
        return Written(label)


def _label(place: Place) -> Path:
    return place.folder / "labels" / f"{place.name}.png"


def _image(place: Place) -> Path:
    return image_file(place, place.folder / "images")


def _lines(classes: Vocabulary) -> bytes:
    return "".join("|".join(entry.names) + "\n" for entry in classes).encode()
