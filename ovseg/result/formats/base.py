"""What a format says of itself, where its files go, and how one is found by its name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ovseg.result.parts import Result
from ovseg.system.files import atomic_write
from ovseg.system.registry import Kind, build, names
from ovseg.vocabulary import Vocabulary

if TYPE_CHECKING:
    from PIL.PngImagePlugin import PngInfo

_CLASSES: dict[str, type[Format]] = {}
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


class Format(ABC):
    """One way to put a result into a file. Options are keyword-only parameters of the constructor.

    Attributes:
        name: What users call it.
        ending: How its files end, behind the name of the image.
        summary: What is in them, in a few words.
        beside: How files end that come with it.
        needs: What a model has to give for it, as `ovseg.contract.WANTS` calls it.
        mark: Bytes near the start of its files that those of others lack; without them a file is not replaced. Empty
            where endings tell enough, as those of pictures do.
    """

    name: ClassVar[str]
    ending: ClassVar[str]
    summary: ClassVar[str]
    beside: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[tuple[str, ...]] = ()
    mark: ClassVar[bytes] = b""

    def __init_subclass__(cls) -> None:
        """Register the format under its name."""
        _CLASSES[cls.name] = cls

    @abstractmethod
    def write(self, result: Result, path: Path) -> None:
        """Write the file.

        Raises:
            InputError: The result lacks what the format shows, or has more than it can hold.
        """

    def check(self, classes: Vocabulary, folder: Path) -> None:  # noqa: B027 -- most formats hold any words
        """Refuse words that the format cannot hold, before the work starts.

        Args:
            classes: Of the results to come.
            folder: Where they will go.

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

    def put(self, result: Result, place: Place) -> Path:
        """Write all files of an image, each complete or not at all, and return the path of the first.

        Raises:
            InputError: As `save`.
        """
        path = next(iter(self.files(place)))
        self.save(result, path)
        return path


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
