"""The files of a run: what each image's results are called, and what is in the way; settled before the heavy work."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ovseg.data.images import output_stems
from ovseg.errors import InputError
from ovseg.result.formats import FORMATS, Format, list_formats
from ovseg.result.parts import Result
from ovseg.system.files import check_writable
from ovseg.system.registry import build

STANDARD = ("overlay", "labels", "report")
"""The formats of a run that names none; the report is written last, so that what it speaks of is there."""

NAME_BYTES = 255
"""What file systems take as the name of a file; on a few with less, writing an image fails by name."""

_HEAD = 400  # bytes of a file in which its mark is looked for


def is_picture_of_ours(path: Path) -> bool:
    """Tell by its name whether a file is a picture that a run has written."""
    endings = [ending for one in list_formats() for ending in one.endings() if ending.endswith(".png")]
    return path.name.endswith(tuple(endings))


def needs_of(formats: Sequence[str]) -> frozenset[str]:
    """Return what has to be wanted of a model for these formats, as `ovseg.contract.WANTS` calls it.

    Raises:
        UnknownNameError: There is no such format.
    """
    return frozenset(need for one in _formats(formats) for need in one.needs)


def plan_files(
    images: Iterable[Path],
    folder: Path,
    formats: Sequence[str] = STANDARD,
    on_error: Callable[[Path, InputError], None] | None = None,
    on_note: Callable[[Path, str], None] | None = None,
) -> dict[str, Path]:
    """Choose for each image the path of its results without their endings, and make sure that they may be written.

    Results of earlier runs are replaced. An image of this run and a JSON file that is no result never are.

    Args:
        images: All images of the run.
        folder: Of the results; it is made.
        formats: Names of what will be written.
        on_error: Called with an image whose results cannot be written; it is left out. Without it the error is raised.
        on_note: Called with an image whose results get another name than its own, and with why.

    Returns:
        ``str(image)`` -> ``folder/stem``; see `write_files`.

    Raises:
        UnknownNameError: There is no such format.
        InputError: The folder cannot be written to, or a file would be overwritten that is no result.
    """
    chosen = _formats(formats)
    images = list(images)
    stems = output_stems([path.name for path in images])
    endings = [(ending, one.mark) for one in chosen for ending in one.endings()]
    longest = max((len(os.fsencode(ending)) for ending, _ in endings), default=0)
    inputs = {os.path.realpath(path) for path in images}
    bases = {}
    for path, stem in zip(images, stems, strict=True):
        name = short_name(stem, NAME_BYTES - longest)
        try:
            for ending, mark in endings:
                _check_replaceable(folder / f"{name}{ending}", inputs, mark)
        except InputError as error:
            if on_error is None:
                raise
            on_error(path, error)
            continue
        bases[str(path)] = folder / name
        if name != stem and on_note is not None:
            on_note(path, f"'{path.name}': its name is too long for results, which are called {name}")
    check_writable(folder)
    return bases


def short_name(stem: str, most: int) -> str:
    """Shorten the last part of a name to a number of bytes; eight digits of its hash tell it from its like.

    Names that fit stay as they are. The same name always becomes the same.
    """
    head, slash, last = stem.rpartition("/")
    if len(os.fsencode(last)) <= most:
        return stem
    mark = f"-{hashlib.sha256(os.fsencode(last)).hexdigest()[:8]}"
    while len(os.fsencode(last)) + len(mark) > most:
        last = last[:-1]
    return f"{head}{slash}{last}{mark}"


def write_files(result: Result, base: Path, formats: Sequence[str] = STANDARD) -> dict[str, str]:
    """Write the files of one result, each complete or absent, in the order of the formats.

    Args:
        result: Of one image.
        base: Path without endings, from `plan_files`.
        formats: Names.

    Returns:
        The path of each format by its name.

    Raises:
        UnknownNameError: There is no such format.
        InputError: A place cannot be written to, or the result has not what a format shows.
    """
    written = {}
    for one in _formats(formats):
        path = Path(f"{base}{one.ending}")
        one.save(result, path)
        written[one.name] = str(path)
    return written


def _formats(names: Sequence[str]) -> list[Format]:
    return [build(FORMATS, name) for name in names]


def _check_replaceable(target: Path, inputs: set[str], mark: bytes) -> None:
    if os.path.realpath(target) in inputs:
        raise InputError(f"'{target}' is an input and would be overwritten by a result; choose another --output")
    if os.path.isdir(target):
        raise InputError(f"result '{target}' cannot be written: a folder is in its place; choose another --output")
    if target.suffix == ".json" and os.path.isfile(target):
        try:
            with target.open("rb") as file:
                ours = mark in file.read(_HEAD)
        except OSError as error:
            raise InputError(f"'{target}' cannot be read ({error.strerror}); choose another --output") from error
        if not ours:
            raise InputError(f"'{target}' is no result of ovseg and would be overwritten; choose another --output")
