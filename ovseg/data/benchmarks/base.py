"""What a benchmark says of itself: where its files come from, how they lie on disk, and what its labels mean.

A tree of files is accepted as it was published and in the usual rearrangements; each is a `Layout`. Labels whose values
are no class ids yet are converted once, into ``ROOT/ovseg/NAME/labels`` (see `ovseg.data.benchmarks.prepare`); the
published files are never changed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

import numpy as np

from ovseg.data.dataset import Dataset
from ovseg.errors import InputError
from ovseg.vocabulary import Vocabulary

DOWNLOADS = "downloads"  # below the root: archives, by us or by hand
MADE = "ovseg"  # below the root: what is made here

Classes: TypeAlias = str | Vocabulary | Callable[[Path], Vocabulary]
"""A vocabulary preset, a list, or a function that reads it from the data set's own files (it gets their folder)."""


class Missing(InputError):
    """Published files are missing; ``sources`` are those that have them."""

    def __init__(self, message: str, sources: tuple[Source, ...]) -> None:
        """Take the line that says what is missing and what mends it."""
        super().__init__(message)
        self.sources = sources


@dataclass(frozen=True)
class Source:
    """Something to be fetched before a benchmark can be used.

    Attributes:
        what: In words, with its size.
        file: Name of the archive or file; it is unpacked when it lies in ROOT/downloads, whoever put it there.
        into: Folder below the root where it is unpacked.
        provides: Paths below the benchmark's folder (any of them shows that it is there; ``*`` is a wildcard).
        url: Where it may be downloaded from without asking; empty when only the user may fetch it.
        page: Where the user finds it (registration, licence).
        checksum: Of the file, where known, as ``sha256:HEX`` (or md5, sha1: what its publishers give).
        size: Of the file in bytes, where known.
        splits: Splits that need it; empty for all.
        inside: Archives below the root that come out of it, and are unpacked where they are.
    """

    what: str
    file: str
    into: str
    provides: tuple[str, ...]
    url: str = ""
    page: str = ""
    checksum: str = ""
    size: int = 0
    splits: tuple[str, ...] = ()
    inside: tuple[str, ...] = ()

    def present(self, folder: Path) -> bool:
        """Whether what it provides is in the benchmark's folder."""
        return any(exists(folder, path) for path in self.provides)

    def line(self, place: Place) -> str:
        """Return the one line that says what to do when it is missing."""
        into, goal = place.root / self.into, below(place.folder, self.provides[0])
        if self.url:
            return f"{place.command} downloads {self.url} ({self.what}) and unpacks it in '{into}'"
        return (
            f"fetch {self.what} from {self.page} (only you may), put {self.file} in '{place.root / DOWNLOADS}' and run "
            f"{place.command}, or unpack it yourself in '{into}' so that '{goal}' exists"
        )


@dataclass(frozen=True)
class Place:
    """A split of a benchmark below a root.

    Attributes:
        benchmark: Whose it is.
        split: Its name there.
        root: Folder of all data sets, as Detectron2's DETECTRON2_DATASETS.
        subset: Whether it is a part on purpose: what is missing is no fault.
    """

    benchmark: Benchmark
    split: str
    root: Path
    subset: bool = False

    @property
    def name(self) -> str:
        """The name in the catalogs."""
        return f"{self.benchmark.name}_{self.split}"

    @property
    def rules(self) -> Split:
        """How the split is found and read."""
        return self.benchmark.splits[self.split]

    @cached_property
    def folder(self) -> Path:
        """The benchmark's folder: the first usual one with a whole tree, else the first that exists, else the first.

        It is looked for once; make a new `Place` after files have come.
        """
        folders = [self.root / name for name in self.benchmark.folders]
        whole = (folder for folder in folders if self.rules.complete(folder))
        return next(whole, next((folder for folder in folders if folder.is_dir()), folders[0]))

    @property
    def made(self) -> Path:
        """Folder of what is made here: converted labels, classes.json and manifest.json."""
        return self.root / MADE / self.name

    @property
    def command(self) -> str:
        """The command that prepares the split, in backticks."""
        return f"`ovseg datasets prepare {self.name} --root {self.root}{' --subset' if self.subset else ''}`"

    def sources(self) -> list[Source]:
        """Return what this split needs."""
        return [one for one in self.benchmark.sources if not one.splits or self.split in one.splits]

    def missing(self, path: str) -> Missing:
        """Build the error for a path (or pattern) that is missing in the benchmark's folder."""
        path = path.split("|")[0].split("/**")[0]
        sources = [one for one in self.sources() if any(path.startswith(p.split("*")[0]) for p in one.provides)]
        sources = sources or [one for one in self.sources() if not one.present(self.folder)] or self.sources()
        root = "" if self.root.is_dir() else " (is the root right? set DETECTRON2_DATASETS, or give --root)"
        lines = [one.line(self) for one in sources] or ["add it"]
        return Missing(f"{self.name}: '{below(self.folder, path)}' is missing{root}; {lines[0]}", tuple(sources[:1]))

    def classes(self) -> Vocabulary:
        """Return the class list: a preset, or what the data set's own files say."""
        return self.rules.classes(self)


class Split(ABC):
    """One split of a benchmark: its expected size, and how it is found, converted and read."""

    count: int
    """Images that the benchmark has."""
    also: tuple[int, ...] = ()
    """Further counts that are in use, where lists differ."""

    @abstractmethod
    def complete(self, folder: Path) -> bool:
        """Whether the published files are all in a folder."""

    @abstractmethod
    def require(self, place: Place) -> None:
        """Look for the published files.

        Raises:
            Missing: Something is missing; the line says what, and what mends it.
        """

    def classes(self, place: Place) -> Vocabulary:
        """Return the class list: that of the benchmark, unless the split has one of its own."""
        source = place.benchmark.classes
        return source(place.folder) if callable(source) else Vocabulary.parse(source)

    def converts(self, place: Place) -> bool:
        """Whether labels have to be converted before they can be read."""
        return False

    def convert(self, place: Place) -> dict[str, str]:
        """Convert the labels, and write what is not there yet or is there otherwise.

        Returns:
            For each image whose label could not be used, by ``image_id``, the line that says why.
        """
        return {}

    def outdated(self, place: Place, every: bool) -> dict[str, str]:
        """Compare converted labels with what would be made of the published ones now.

        Args:
            place: Where they are.
            every: Look at all; without it at those whose published file is younger, and at a few others.

        Returns:
            For each image whose label differs, by ``image_id``, the line that says so.
        """
        return {}

    @abstractmethod
    def read(self, place: Place) -> Dataset:
        """List the images and labels; of a subset those that are there, and what is missing is no problem.

        Raises:
            OvsegError: Files are missing or not as they should be.
        """


@dataclass(frozen=True)
class Benchmark:
    """A data set with fixed splits, classes and rules.

    Attributes:
        name: In commands; with ``_SPLIT`` behind it, in the catalogs.
        title: For people.
        folders: Usual folders below the root, the best first.
        classes: Where its class list comes from; splits may have lists of their own.
        rule: What the values of its labels mean and what is ignored, in words.
        sources: What has to be fetched.
        splits: By name; the first one is what is evaluated on.
        aliases: Further names of splits in the catalogs (other toolkits'), by split.
        metric: What is measured: semantic, panoptic, instance or prompts.
        background: Id of the class that stands for anything else, so that thresholds make sense; -1 where none does.
        present: Classes that occur in the first split, where they are known to be fewer than the list has.
        licence: In a few words.
        paper: Who made it, where.
    """

    name: str
    title: str
    folders: tuple[str, ...]
    classes: Classes
    rule: str
    sources: tuple[Source, ...]
    splits: Mapping[str, Split]
    licence: str
    paper: str
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    metric: str = "semantic"
    background: int = -1
    present: int | None = None


Decoder: TypeAlias = Callable[[str], np.ndarray]
"""Reads the labels of one stem: classes (H, W) int32, -1 void."""

Rule: TypeAlias = Callable[[Place, str], Decoder]
"""Makes a decoder for a place and a pattern of label files."""


@dataclass(frozen=True)
class Layout:
    """Where the images and labels of a split lie below the benchmark's folder.

    Attributes:
        images: Pattern of the files of images; ``{}`` is the stem that an image and its label share, folders included.
        labels: Pattern of the labels; without ``{}``, one file that holds all.
        rule: Reads the labels; None when their values are class ids, and 255 (65535 beyond 255 classes) is void.
        listed: Gives the stems of the split where they are listed (it gets the folder); None takes all labels.
        needs: Further files that have to be there; ``a|b`` is any of two.
    """

    images: str
    labels: str
    rule: Rule | None = None
    listed: Callable[[Path], list[str]] | None = None
    needs: tuple[str, ...] = ()

    def absent(self, folder: Path) -> list[str]:
        """Return the paths that have to exist and do not; of images and labels at least one file."""
        # A stem that begins a component may bring folders of its own.
        patterns = [
            f"/{pattern}".replace("/{}", "/**/*").replace("{}", "*").removeprefix("/")
            for pattern in (self.images, self.labels)
        ]
        return [pattern for pattern in (*patterns, *self.needs) if not exists(folder, pattern)]


def below(folder: Path, path: str) -> Path:
    """Join a folder, which need not exist, and a path that may begin with ``../``."""
    while path.startswith("../"):
        folder, path = folder.parent, path.removeprefix("../")
    return folder / path


def exists(folder: Path, path: str) -> bool:
    """Whether a path, possibly with wildcards, exists below a folder; ``a|b`` asks for any of two."""
    for one in path.split("|"):
        name = one.rpartition("../")[2]
        start = below(folder, one.removesuffix(name))
        if any(start.glob(name)) if "*" in name else (start / name).exists():
            return True
    return False


BENCHMARKS: dict[str, Benchmark] = {}
"""Benchmarks by name; the files of this package register them, by being there."""


def register(*benchmarks: Benchmark) -> None:
    """Enter benchmarks under their names."""
    BENCHMARKS.update((one.name, one) for one in benchmarks)
