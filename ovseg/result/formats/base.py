"""What a format says of itself, and how one is found by its name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from ovseg.result.parts import Result
from ovseg.system.files import atomic_write
from ovseg.system.registry import Kind, build, names

_CLASSES: dict[str, type[Format]] = {}


class Format(ABC):
    """One way to put a result into a file.

    Attributes:
        name: What users call it.
        ending: How its files end, behind the name of the image.
        summary: What is in them, in a few words.
        beside: How files end that come with it.
        needs: What a model has to give for it, as `ovseg.contract.WANTS` calls it.
        mark: Bytes near the start of its JSON files that those of others lack; pictures are known by their endings.
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

    def endings(self) -> tuple[str, ...]:
        """Return how all of its files end, the one that is named in reports first."""
        return self.ending, *self.beside

    def save(self, result: Result, path: Path) -> None:
        """Write the file, complete or not at all; an earlier one is replaced.

        Raises:
            InputError: As `write`, or the place cannot be written to.
        """
        with atomic_write(path) as temporary:
            self.write(result, temporary)


FORMATS: Kind[type[Format]] = Kind("format", _CLASSES)
"""Output formats by name."""


def list_formats() -> list[Format]:
    """Return all formats by name."""
    return [build(FORMATS, name) for name in names(FORMATS)]
