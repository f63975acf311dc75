"""The formats of a job: the one place where it meets them."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ovseg.errors import OvsegError
from ovseg.jobs.label.containers import Item
from ovseg.jobs.rows import Row
from ovseg.result.files import check_places, check_words, files_of, finish_files, write_files
from ovseg.result.formats import Place, Record, Written
from ovseg.result.parts import Result
from ovseg.vocabulary import Vocabulary


class Exports:
    """Formats with their options, and the folder that they write into."""

    def __init__(self, formats: Sequence[str], options: Mapping[str, Any], folder: Path) -> None:
        """Take names of formats, and values of their options."""
        self.formats, self.options, self.folder = tuple(formats), dict(options), folder

    def check(self, classes: Vocabulary, gone: Collection[Path] = ()) -> None:
        """Refuse words that a format cannot hold, or that are others than those in the folder.

        Args:
            classes: Of the results.
            gone: Files in the folder that will be deleted before.

        Raises:
            InputError: One cannot.
            OvsegError: A format or an option is not known.
        """
        check_words(classes, self.folder, self.formats, self.options, gone)

    def check_places(self, items: Iterable[Item]) -> None:
        """Make sure that nothing is replaced that is an input, or of others.

        Raises:
            InputError: It would be.
            OvsegError: A format or an option is not known.
        """
        check_places(map(self._place, items), self.folder, self.formats, self.options)

    def files(self, item: Item) -> list[Path]:
        """Return the files of an image."""
        return files_of([self._place(item)], self.folder, self.formats, self.options)[0][0]

    @property
    def shared(self) -> list[Path]:
        """The files that hold all images."""
        return files_of([], self.folder, self.formats, self.options)[1]

    def put(self, result: Result, item: Item) -> dict[str, Written]:
        """Write the files of an image, and return what each format says of it.

        Raises:
            InputError: A place cannot be written to, or the result has not what a format shows.
        """
        return write_files(result, self._place(item), self.formats, self.options)

    def finish(self, rows: Sequence[Row], classes: Vocabulary) -> list[Path]:
        """Write the files that hold all images.

        Args:
            rows: Of the images that were labelled, in order, with the place where each is ``kept`` in the log.
            classes: Of the results.

        Returns:
            Their paths; none where no image was labelled, for such files would not be known as ours.

        Raises:
            InputError: One cannot be written.
        """

        def records(name: str) -> Iterator[Record]:
            return (row["kept"].read()["records"][name] for row in rows)

        if not rows:
            return []
        finish_files(records, classes, self.folder, self.formats, self.options)
        return self.shared

    def all_files(self, items: Iterable[Item]) -> list[Path]:
        """Return all files that a job writes of images, as far as its formats and options are known by now."""
        found: list[Path] = []
        with contextlib.suppress(OvsegError):
            own, shared = files_of(map(self._place, items), self.folder, self.formats, self.options)
            found = [path for paths in own for path in paths] + shared
        return found

    def _place(self, item: Item) -> Place:
        return Place(self.folder, item.name, item.key, Path(item.path))
