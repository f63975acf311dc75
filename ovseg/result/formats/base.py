"""What a format says of itself, where its files go, and how one is found by its name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from ovseg.result.parts import Result
from ovseg.system.files import atomic_write
from ovseg.system.registry import Kind, build, names
from ovseg.vocabulary import Vocabulary

if TYPE_CHECKING:
    from PIL.PngImagePlugin import PngInfo

_CLASSES: dict[str, type[Format]] = {}
Record: TypeAlias = Mapping[str, Any]
"""What a format remembers of an image for the files that hold all of them, as JSON values; see `Format.finish`."""

PNG_MARK = b"made by ovseg"
"""What stands in the head of PNG files that we write."""


@dataclass(frozen=True)
class Place:
    """Where the results of an image go.

    Attributes:
        folder: Of all results of the run.
        name: Of the image, without its suffix where it needs none: with forward slashes, see `relative_names`.
        image: What reports call the image: its path below the common root, with its suffix.
        source: The file of the image.
    """

    folder: Path
    name: str
    image: str
    source: Path

    def file(self, ending: str) -> Path:
        """Return the path of a result."""
        return self.folder / f"{self.name}{ending}"


@dataclass(frozen=True)
class Written:
    """What a format has made of one image.

    Attributes:
        path: The file that reports name. Where all images share a file it is that one, and is there at the end.
        record: For `Format.finish`; JSON values, so that it can lie in a log until then.
        notes: What the format could not hold, or holds otherwise; a line each.
    """

    path: Path
    record: Record = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Format(ABC):
    """One way to put a result into files. Options are keyword-only parameters of the constructor.

    Files of an image are written by `put`; those that hold all images of a run by `finish`, from the records that `put`
    gave. Both write the same bytes for the same results, wherever and in however many runs `put` was called.

    Attributes:
        name: What users call it.
        ending: How its files end, behind the name of the image.
        summary: What is in them, in a few words.
        beside: How files end that come with it.
        needs: What a model has to give for it, as `ovseg.contract.WANTS` calls it.
        uses: What it shows beside that, from models that give it.
        mark: Bytes near the start of its files that those of others lack; without them a file is not replaced. Empty
            where endings tell enough, as those of pictures do.
    """

    name: ClassVar[str]
    ending: ClassVar[str]
    summary: ClassVar[str]
    beside: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[tuple[str, ...]] = ()
    uses: ClassVar[tuple[str, ...]] = ()
    mark: ClassVar[bytes] = b""

    def __init_subclass__(cls) -> None:
        """Register the format under its name, if it has one."""
        if "name" in vars(cls):
            _CLASSES[cls.name] = cls

    @abstractmethod
    def write(self, result: Result, path: Path) -> None:
        """Write the file.

        Raises:
            InputError: The result lacks what the format shows, or has more than it can hold.
        """

    def check(  # noqa: B027 -- most formats hold any words
        self, classes: Vocabulary, folder: Path, gone: Collection[Path] = ()
    ) -> None:
        """Refuse words that the format cannot hold, before the work starts.

        Args:
            classes: Of the results to come.
            folder: Where they will go.
            gone: Files there that will be deleted before.

        Raises:
            InputError: It cannot hold them, or other words are there already.
        """

    def check_place(self, place: Place) -> None:  # noqa: B027 -- endings and marks are enough for most formats
        """Refuse a place where more is in the way than endings and marks tell.

        Raises:
            InputError: Something would be lost.
        """

    def endings(self) -> tuple[str, ...]:
        """Return how all of its files end, the one that is named in reports first."""
        return self.ending, *self.beside

    def files(self, place: Place) -> dict[Path, bytes]:
        """Return all files that will be written for an image, the one that is named in reports first, with marks."""
        return {place.file(end): self.mark if end.endswith(".json") else b"" for end in self.endings()}

    def save(self, result: Result, path: Path) -> None:
        """Write the file, complete or not at all; an earlier one is replaced.

        Raises:
            InputError: As `write`, or the place cannot be written to.
        """
        with atomic_write(path) as temporary:
            self.write(result, temporary)

    def put(self, result: Result, place: Place) -> Written:
        """Write all files of an image, each complete or not at all. Their folders exist.

        Raises:
            InputError: As `save`.
        """
        path = next(iter(self.files(place)))
        self.save(result, path)
        return Written(path)

    def shared(self, folder: Path) -> dict[Path, bytes]:
        """Return the files that are there once for all images, with marks as in `files`."""
        return {}

    def finish(self, records: Iterable[Record], classes: Vocabulary, folder: Path) -> None:  # noqa: B027 -- rarely any
        """Write the files that hold all images, each complete or not at all; lists of classes are there before.

        Args:
            records: Those of `Written`, in the order in which the files shall list the images. They may be gone through
                more than once, one at a time, and need not fit into memory.
            classes: Of the results.
            folder: Of all results of the run; it exists.

        Raises:
            InputError: They cannot be written.
        """


class Export(Format):
    """A format for other tools, in a file or folder that is called like it: nothing of it lies beside the images."""

    ending: ClassVar[str] = ""

    def endings(self) -> tuple[str, ...]:
        """Return none."""
        return ()

    def files(self, place: Place) -> dict[Path, bytes]:
        """Return none, unless each image has files of its own."""
        return {}

    def write(self, result: Result, path: Path) -> None:
        """Write what an image has of its own; nothing where all images share a file."""

    def home(self, folder: Path) -> Path:
        """Return its folder."""
        return folder / self.name


def png_info(result: Result) -> PngInfo:
    """Return what our PNG files say of themselves: who made them, and of which image."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("Software", PNG_MARK.decode())
    if source := result.meta.get("path"):
        info.add_itxt("Source", str(Path(source).absolute()).encode("utf-8", "backslashreplace").decode())
    return info


FORMATS: Kind[type[Format]] = Kind("format", _CLASSES)
"""Output formats by name."""


def list_formats() -> list[Format]:
    """Return all formats by name, with their default options."""
    return [build(FORMATS, name) for name in names(FORMATS)]
