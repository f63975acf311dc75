"""What a format says of itself, and how one is found by its name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from ovseg.errors import unknown_name
from ovseg.result.parts import Result
from ovseg.system.files import atomic_write


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


def list_formats() -> list[Format]:
    """Return all formats by name."""
    return sorted((kind() for kind in Format.__subclasses__()), key=lambda one: one.name)


def find_format(name: str) -> Format:
    """Return a format by its name.

    Raises:
        UnknownNameError: There is none; near matches are named.
    """
    known = {one.name: one for one in list_formats()}
    if name not in known:
        raise unknown_name("format", name, known)
    return known[name]
