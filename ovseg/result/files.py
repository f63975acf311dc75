"""The files of a run: what each image's results are called, and what is in the way; settled before the heavy work."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ovseg.data.images import output_stems
from ovseg.errors import ConfigError, InputError
from ovseg.result.formats import FORMATS, Format, list_formats
from ovseg.result.parts import Result
from ovseg.system.files import check_writable
from ovseg.system.registry import build, find, options_of

STANDARD = ("overlay", "labels", "report")
"""The formats of a run that names none; the report is written last, so that what it speaks of is there."""

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
    options: Mapping[str, Any] | None = None,
) -> dict[str, Path]:
    """Choose for each image the path of its results without their endings, and make sure that they may be written.

    Results of earlier runs are replaced. An image of this run and a JSON file that is no result never are.

    Args:
        images: All images of the run.
        folder: Of the results; it is made.
        formats: Names of what will be written.
        options: See `write_files`.

    Returns:
        ``str(image)`` -> ``folder/stem``; see `write_files`.

    Raises:
        UnknownNameError: There is no such format.
        ConfigError: None of the formats has an option.
        InputError: The folder cannot be written to, or a file would be overwritten that is no result.
    """
    chosen = _formats(formats, options)
    images = list(images)
    stems = output_stems([path.name for path in images])
    bases = {str(path): folder / stem for path, stem in zip(images, stems, strict=True)}
    inputs = {os.path.realpath(path) for path in images}
    for base in bases.values():
        for one in chosen:
            for ending in one.endings():
                _check_replaceable(Path(f"{base}{ending}"), inputs, one.mark)
    check_writable(folder)
    return bases


def write_files(
    result: Result, base: Path, formats: Sequence[str] = STANDARD, options: Mapping[str, Any] | None = None
) -> dict[str, str]:
    """Write the files of one result, each complete or absent, in the order of the formats.

    Args:
        result: Of one image.
        base: Path without endings, from `plan_files`.
        formats: Names.
        options: Values of options of the formats; each format takes those that it has.

    Returns:
        The path of each format by its name.

    Raises:
        UnknownNameError: There is no such format.
        ConfigError: None of the formats has an option, or its value is of a wrong type.
        InputError: A place cannot be written to, or the result has not what a format shows.
    """
    written = {}
    for one in _formats(formats, options):
        path = Path(f"{base}{one.ending}")
        one.save(result, path)
        written[one.name] = str(path)
    return written


def _formats(names: Sequence[str], options: Mapping[str, Any] | None = None) -> list[Format]:
    given = options or {}
    known = {name: options_of(find(FORMATS, name)).keys() & given.keys() for name in names}
    if unused := given.keys() - set().union(*known.values()):
        raise ConfigError(f"option '{min(unused)}' changes none of the formats {', '.join(names)}; leave it out")
    return [build(FORMATS, name, {key: given[key] for key in own}) for name, own in known.items()]


def _check_replaceable(target: Path, inputs: set[str], mark: bytes) -> None:
    if os.path.realpath(target) in inputs:
        raise InputError(f"'{target}' is an input and would be overwritten by a result; choose another --output")
    if target.is_dir():
        raise InputError(f"result '{target}' cannot be written: a folder is in its place; choose another --output")
    if target.suffix == ".json" and target.is_file():
        try:
            with target.open("rb") as file:
                ours = mark in file.read(_HEAD)
        except OSError as error:
            raise InputError(f"'{target}' cannot be read ({error.strerror}); choose another --output") from error
        if not ours:
            raise InputError(f"'{target}' is no result of ovseg and would be overwritten; choose another --output")
