"""The files of a run: what each image's results are called, and what is in the way; settled before the heavy work."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ovseg.errors import ConfigError, InputError
from ovseg.result.formats import FORMATS, Format, Place, Record, Written, list_formats
from ovseg.result.parts import Result
from ovseg.system.files import check_makeable, check_writable, file_hash
from ovseg.system.paths import common_root, relative_names
from ovseg.system.registry import build, find, options_of
from ovseg.vocabulary import Vocabulary

STANDARD = ("overlay", "labels", "report")
"""The formats of a run that names none; the report is written last, so that what it speaks of is there."""

NAME_BYTES = 255
"""What file systems take as the name of a file; on a few with less, writing an image fails by name."""

_LONGEST = max(len(ending) for one in list_formats() for ending in one.endings())
_PICTURES = tuple(ending for one in list_formats() for ending in one.endings() if ending.endswith(".png"))
_HEAD = 400  # bytes of a file in which its mark is looked for


def is_picture_of_ours(path: Path) -> bool:
    """Tell by its name whether a file is a picture that a run has written."""
    return path.name.endswith(_PICTURES)


def needs_of(formats: Sequence[str]) -> frozenset[str]:
    """Return what has to be wanted of a model for these formats, as `ovseg.contract.WANTS` calls it.

    Raises:
        UnknownNameError: There is no such format.
    """
    return frozenset(need for one in _formats(formats) for need in one.needs)


def wants_of(formats: Sequence[str], gives: Iterable[str]) -> frozenset[str]:
    """Return what is to be wanted of a model for these formats: their needs, and what they use of what it gives.

    Raises:
        UnknownNameError: There is no such format.
    """
    used = {use for one in _formats(formats) for use in one.uses}
    return needs_of(formats) | (used & {*gives})


def plan_files(
    images: Iterable[Path],
    folder: Path,
    formats: Sequence[str] = STANDARD,
    options: Mapping[str, Any] | None = None,
    on_error: Callable[[Path, InputError], None] | None = None,
    on_note: Callable[[Path, str], None] | None = None,
) -> dict[str, Place]:
    """Choose for each image where its results go, and make sure that they may be written there.

    They are named by the path of the image below the innermost folder that holds all of them (`relative_names`), if
    need be shortened. Those of earlier runs are replaced. An image of this run, and a file that should be a result by
    its name and is none, never are.

    Args:
        images: All images of the run.
        folder: Of the results. Neither it nor a folder in it is made before the first result is written.
        formats: Names of what will be written.
        options: See `write_files`.
        on_error: Called with an image whose results cannot be written; it is left out. Without it the error is raised.
        on_note: Called with an image whose results get another name than its own, or under whose name results of
            another one lie, and with a line on it.

    Returns:
        ``str(image)`` -> its place; see `write_files`.

    Raises:
        UnknownNameError: There is no such format.
        ConfigError: None of the formats has an option, or its value is of a wrong type.
        InputError: The folder cannot be written to, or a file would be overwritten that is no result.
    """
    paths, chosen = list(images), _formats(formats, options)
    _check_options(formats, options or {})
    root = common_root(paths)
    places = []
    for path, name in zip(paths, relative_names(paths, root), strict=True):
        places.append(Place(folder, short_name(name, NAME_BYTES - _LONGEST), _below(path, root), path))
        if on_note is not None and places[-1].name != name:
            short = places[-1].name
            on_note(path, f"'{path.name}': its name is too long for results, which are called {short}")
    fit = check_places(places, folder, formats, options, on_error)
    if on_note is not None:
        for place in fit:
            for note in _strangers(place, chosen):
                on_note(place.source, note)
    return {str(place.source): place for place in fit}


def check_places(
    places: Iterable[Place],
    folder: Path,
    formats: Sequence[str] = STANDARD,
    options: Mapping[str, Any] | None = None,
    on_error: Callable[[Path, InputError], None] | None = None,
) -> list[Place]:
    """Make sure that results may be written to places that were chosen: nothing is lost there, and nothing in the way.

    Args:
        places: Of all images of the run.
        folder: Of the results.
        formats: Names of what will be written.
        options: See `write_files`.
        on_error: As in `plan_files`.

    Returns:
        Those that may be written to.

    Raises:
        OvsegError: As `plan_files`.
    """
    every, chosen = list(places), _formats(formats, options)
    _check_options(formats, options or {})
    inputs = {os.path.realpath(place.source) for place in every}
    found: list[Place] = []
    owners: dict[Path, Place] = {}
    for place in every:
        try:
            targets = _check_place(place, chosen, inputs, owners)
        except InputError as error:
            if on_error is None:
                raise
            on_error(place.source, error)
            continue
        found.append(place)
        owners |= dict.fromkeys(targets, place)
    shared = {target: mark for one in chosen for target, mark in one.shared(folder).items()}
    for target, mark in shared.items():
        _check_replaceable(target, inputs, mark)
        if other := owners.get(target):
            raise InputError(f"'{other.image}' and all images would both be written to '{target}'; rename one")
    for parent in sorted({folder, *(target.parent for target in (*owners, *shared))}):
        check_makeable(parent)
    return found


def files_of(
    places: Iterable[Place], folder: Path, formats: Sequence[str], options: Mapping[str, Any] | None = None
) -> tuple[list[list[Path]], list[Path]]:
    """Return the files of each place, and those that hold all images; arguments as `check_places`."""
    chosen = _formats(formats, options)
    own = [[target for one in chosen for target in one.files(place)] for place in places]
    return own, [target for one in chosen for target in one.shared(folder)]


def short_name(name: str, most: int) -> str:
    """Shorten the last part of a name to a number of bytes; eight digits of its hash tell it from its like.

    Names that fit stay as they are. The same name always becomes the same.
    """
    head, slash, last = name.rpartition("/")
    if len(os.fsencode(last)) <= most:
        return name
    mark = f"-{hashlib.sha256(os.fsencode(last)).hexdigest()[:8]}"
    while len(os.fsencode(last)) + len(mark) > most:
        last = last[:-1]
    return f"{head}{slash}{last}{mark}"


def check_words(
    classes: Vocabulary,
    folder: Path,
    formats: Sequence[str] = STANDARD,
    options: Mapping[str, Any] | None = None,
    gone: Collection[Path] = (),
) -> None:
    """Refuse words that one of the formats cannot hold, before the heavy work; arguments as `plan_files`.

    Files that are ``gone`` will be deleted before.

    Raises:
        InputError: It cannot hold them.
    """
    for one in _formats(formats, options):
        one.check(classes, folder, gone)


def write_files(
    result: Result, place: Place, formats: Sequence[str] = STANDARD, options: Mapping[str, Any] | None = None
) -> dict[str, Written]:
    """Write the files of one result, each complete or absent, in the order of the formats; their folders are made.

    Args:
        result: Of one image.
        place: Of the image, from `plan_files`.
        formats: Names.
        options: Values of options of the formats; each format takes those that it has.

    Returns:
        What each format has written by its name; the records are for `finish_files`.

    Raises:
        UnknownNameError: There is no such format.
        ConfigError: None of the formats has an option, or its value is of a wrong type.
        InputError: A place cannot be written to, or the result has not what a format shows.
    """
    chosen = _formats(formats, options)
    for parent in sorted({target.parent for one in chosen for target in one.files(place)}):
        check_writable(parent)
    return {one.name: one.put(result, place) for one in chosen}


def finish_files(
    records: Callable[[str], Iterable[Record]],
    classes: Vocabulary,
    folder: Path,
    formats: Sequence[str] = STANDARD,
    options: Mapping[str, Any] | None = None,
) -> list[str]:
    """Write the files that hold all images of a run, each complete or absent; their folders are made.

    Args:
        records: Called with the name of a format, and as often as it likes: gives what `write_files` returned as its
            records, in the order in which images shall be listed.
        classes: Of the results.
        folder: Of the results.
        formats: As they were given to `write_files`.
        options: As they were given to `write_files`.

    Returns:
        Notes: a line for each file of an earlier run that listed something else and is replaced.

    Raises:
        InputError: A place cannot be written to.
    """
    notes = []
    for one in _formats(formats, options):
        before = {target: file_hash(target) if target.is_file() else "" for target in one.shared(folder)}
        for target in before:
            check_writable(target.parent)
        if before:
            one.finish(_Records(records, one.name), classes, folder)
        changed = [target for target, content in before.items() if content and file_hash(target) != content]
        notes += [f"'{target}' of an earlier run is replaced; it holds the images of this run" for target in changed]
    return notes


class _Records(Iterable[Record]):
    """The records of one format, which may be gone through more than once."""

    def __init__(self, records: Callable[[str], Iterable[Record]], name: str) -> None:
        self._records, self._name = records, name

    def __iter__(self) -> Iterator[Record]:
        return iter(self._records(self._name))


def origin(path: Path) -> str | None:
    """Return the image that a result of ours was made of, as an absolute path; None where that is not known."""
    from PIL import Image

    try:
        if path.suffix == ".json":
            found = json.loads(path.read_text(encoding="utf-8"))["input"]["path"]
        else:
            with Image.open(path, formats=["PNG"]) as picture:
                found = picture.info.get("Source")
    except Exception:  # a file of an earlier version, or a damaged one: nothing is known of it
        return None
    return str(found) if found else None


def _below(path: Path, root: Path) -> str:
    return Path(os.path.relpath(path, root)).as_posix()


def _formats(names: Sequence[str], options: Mapping[str, Any] | None = None) -> list[Format]:
    """Build formats; each takes the options that it has."""
    given = options or {}
    own = {name: options_of(find(FORMATS, name)).keys() & given.keys() for name in names}
    return [build(FORMATS, name, {key: given[key] for key in keys}) for name, keys in own.items()]


def _check_options(names: Sequence[str], options: Mapping[str, Any]) -> None:
    known = {key for name in names for key in options_of(find(FORMATS, name))}
    if unused := options.keys() - known:
        raise ConfigError(f"option '{min(unused)}' changes none of the formats {', '.join(names)}; leave it out")


def _check_place(place: Place, chosen: Iterable[Format], inputs: set[str], owners: Mapping[Path, Place]) -> list[Path]:
    """Refuse a place where something would be lost.

    Args:
        place: Of an image.
        chosen: What will be written.
        inputs: Real paths of all images of the run.
        owners: Which file belongs to which of the other images.

    Returns:
        The files of this one.
    """
    targets: list[Path] = []
    for one in chosen:
        one.check_place(place)
        for target, mark in one.files(place).items():
            _check_replaceable(target, inputs, mark)
            if other := owners.get(target):
                raise InputError(f"'{other.image}' and '{place.image}' would both be written to '{target}'; rename one")
            targets.append(target)
    return targets


def _strangers(place: Place, chosen: Iterable[Format]) -> Iterator[str]:
    """Say which results under the name of an image are of another one: those to be replaced, and those that stay."""
    written = {target for one in chosen for target in one.files(place)}
    endings = [ending for one in list_formats() for ending in one.endings()]
    there = sorted(target for target in {*written, *map(place.file, endings)} if target.is_file())
    of = {target: found for target in there if (found := origin(target)) and found != os.path.abspath(place.source)}
    for what, files in (
        ("is replaced", [target for target in of if target in written]),
        ("stays; delete it, or choose another --output", [target for target in of if target not in written]),
    ):
        if files:
            more = f" (and {len(files) - 1} more)" if files[1:] else ""
            yield f"'{files[0]}'{more} of another image, '{of[files[0]]}', {what}"


def _check_replaceable(target: Path, inputs: set[str], mark: bytes) -> None:
    if os.path.realpath(target) in inputs:
        raise InputError(f"'{target}' is an input and would be overwritten by a result; choose another --output")
    if os.path.isdir(target):
        raise InputError(f"result '{target}' cannot be written: a folder is in its place; choose another --output")
    if mark and os.path.isfile(target):
        try:
            with target.open("rb") as file:
                ours = mark in file.read(_HEAD)
        except OSError as error:
            raise InputError(f"'{target}' cannot be read ({error.strerror}); choose another --output") from error
        if not ours:
            raise InputError(f"'{target}' is no result of ovseg and would be overwritten; choose another --output")
