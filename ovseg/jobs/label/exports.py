"""The formats of a job: the one place where it meets them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ovseg.errors import OvsegError
from ovseg.jobs.label.containers import Item
from ovseg.jobs.rows import Row
from ovseg.result.files import _check_place as check_place
from ovseg.result.files import _formats as choose_formats
from ovseg.result.files import check_words
from ovseg.result.formats import Place
from ovseg.result.parts import Result
from ovseg.vocabulary import Vocabulary


class Exports:
    """Formats with their options, and the folder that they write into."""

    def __init__(self, names: Sequence[str], options: Mapping[str, Any], folder: Path) -> None:
        """Choose formats.

        Raises:
            UnknownNameError: There is no such format.
            ConfigError: None of them has an option, or its value is of a wrong type.
        """
        self.names, self.options, self.folder = tuple(names), dict(options), folder
        self._formats = choose_formats(self.names, self.options)

    def check(self, classes: Vocabulary) -> None:
        """Refuse words that a format cannot hold.

        Raises:
            InputError: One cannot.
        """
        check_words(classes, self.folder, self.names, self.options)

    def place(self, item: Item) -> Place:
        """Return where the results of an image go."""
        return Place(self.folder, item.name, item.key, Path(item.path))

    def check_places(self, items: Iterable[Item]) -> None:
        """Make sure that nothing is replaced that is an input, or of others.

        Raises:
            InputError: It would be.
        """
        items = list(items)
        inputs, owners = {os.path.realpath(item.path) for item in items}, dict[Path, Place]()
        for item in items:
            place = self.place(item)
            owners |= dict.fromkeys(check_place(place, self._formats, inputs, owners), place)

    def files(self, item: Item) -> list[Path]:
        """Return the files of an image."""
        return [path for one in self._formats for path in one.files(self.place(item))]

    def put(self, result: Result, item: Item) -> dict[str, Any]:
        """Write the files of an image.

        Returns:
            What the files that are one for all images will hold of it, by format.

        Raises:
            InputError: A place cannot be written to, or the result has not what a format shows.
        """
        place = self.place(item)
        for parent in {path.parent for path in self.files(item)}:
            parent.mkdir(parents=True, exist_ok=True)
        return {one.name: str(one.put(result, place)) for one in self._formats}

    def finish(self, rows: Sequence[Row], classes: Vocabulary) -> list[Path]:
        """Write the files that are one for all images.

        Args:
            rows: Of the images that were labelled, in order, with the place where each is ``kept`` in the log.
            classes: Of the results.

        Returns:
            Their paths.

        Raises:
            InputError: One cannot be written.
        """
        return []


def files_of(names: Sequence[str], options: Mapping[str, Any], folder: Path, items: Iterable[Item]) -> list[Path]:
    """Return the files that an earlier run wrote, as far as its formats are known by now."""
    found: list[Path] = []
    with contextlib.suppress(OvsegError):
        exports = Exports(names, options, folder)
        for item in items:
            with contextlib.suppress(OvsegError, OSError):
                found += exports.files(item)
    return found
