"""What a job works on: folders with all that is in them, files, lists of them, patterns, archives and videos.

An image is called by its path below the innermost folder that holds all inputs as they were named: so its name does
not depend on what else lies there. What lies elsewhere (a line of a list) is called by its whole path.
"""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ovseg.data.images import IMAGE_SUFFIXES
from ovseg.data.kinds import why_unreadable
from ovseg.errors import InputError, at_least
from ovseg.jobs.label.containers import ARCHIVE, FILE, VIDEO, Item, archive_items, kind_of, video_items
from ovseg.result.files import is_picture_of_ours
from ovseg.system.values import some

LISTS = (".txt", ".lst", ".list")
"""How files end that hold the path of an image in each line."""
_WILD = re.compile(r"[*?\[]")


@dataclass
class Found:
    """What a job works on.

    Attributes:
        items: The images in order: of the arguments, and by their paths within each.
        files: The file of each image, archive or video by what it is called.
        notes: What was left out.
    """

    items: list[Item] = field(default_factory=list)
    files: dict[str, Path] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def find_items(inputs: Sequence[str], output: Path, every: int = 1) -> Found:
    """Find all images.

    Args:
        inputs: Files, folders, lists, patterns, archives and videos.
        output: Folder of the results; what is in it is no input, unless it is named itself.
        every: Of videos every n-th frame.

    Raises:
        InputError: One of them leads nowhere, the folder of the results is one of them, or there is no image at all.
        ConfigError: No frame would be taken.
    """
    at_least("--every", every, 1)
    given = [_Input.open(text, output) for text in inputs]
    if not given:
        raise InputError("got no inputs; expected folders, images, lists, patterns, .tar archives or videos")
    root = Path(os.path.commonpath([one.base for one in given]))
    found, left_out = Found(), _LeftOut()
    for one in given:
        for path, named in one.paths(left_out):
            _add(found, path, _key(path, root), every, named)
    found.notes += left_out.notes()
    if not found.items:
        raise InputError(f"no images in {some([repr(text) for text in inputs])}{left_out.seen()}")
    return found


@dataclass(frozen=True)
class _Input:
    """An argument.

    Attributes:
        text: As it was given.
        base: The folder that its images are called below.
        own: Paths that it names itself.
        output: Absolute path of the folder of the results.
        pattern: Whether it is one: results of this job and of others that it fits are no inputs.
    """

    text: str
    base: str
    own: tuple[str, ...]
    output: str
    pattern: bool = False

    @classmethod
    def open(cls, text: str, output: Path) -> _Input:
        path, out = Path(text), os.path.realpath(output)
        if not text:
            raise InputError("got an empty path as an input; expected a folder, an image, a list, a pattern, ...")
        if path.is_dir():
            return cls(text, os.path.abspath(path), (os.path.abspath(path),), out)
        if path.exists():
            own = _lines(path) if path.suffix.lower() in LISTS else [str(path)]
            return cls(text, os.path.dirname(os.path.abspath(path)), tuple(map(os.path.abspath, own)), out)
        if wild := _WILD.search(text):
            own = sorted(glob.glob(text, recursive=True))
            if not own:
                raise InputError(
                    f"pattern '{text}' fits no file; check it, and quote it so that the shell leaves it be"
                )
            base = os.path.abspath(os.path.dirname(text[: wild.start()]))
            return cls(text, base, tuple(map(os.path.abspath, own)), out, pattern=True)
        raise InputError(f"input '{text}' not found; check the path (relative paths start at {Path.cwd()})")

    def paths(self, left_out: _LeftOut) -> Iterator[tuple[str, bool]]:
        """Yield the absolute paths of its files, and whether each was named itself and not found in a folder."""
        within = self._in_output(self.base)
        for path in self.own:
            if os.path.realpath(self.base if self.pattern else path) == self.output:
                raise InputError(f"--output '{self.output}' is an input, which results would mix with; choose another")
            if self.pattern and not within and self._in_output(path):
                continue
            if os.path.isdir(path):
                yield from ((found, False) for found in self._below(path, left_out))
            elif not (self.pattern and left_out.is_ours(path)):
                yield path, True

    def _in_output(self, path: str) -> bool:
        return f"{os.path.realpath(path)}{os.sep}".startswith(self.output + os.sep)

    def _below(self, folder: str, left_out: _LeftOut) -> Iterator[str]:
        inside = os.path.realpath(folder).startswith(self.output + os.sep)  # a part of the output folder that was named
        for place, folders, files in os.walk(folder, onerror=_raise):
            links = [name for name in folders if os.path.islink(os.path.join(place, name))]
            left_out.links += [os.path.join(place, name) for name in links]
            hidden = [name for name in folders if name.startswith(".")]
            folders[:] = sorted(
                name
                for name in folders
                if name not in links
                and name not in hidden
                and (inside or os.path.realpath(os.path.join(place, name)) != self.output)
            )
            for name in sorted(files):
                path = os.path.join(place, name)
                if left_out.takes(path):
                    yield path


@dataclass
class _LeftOut:
    """What of folders is no input."""

    links: list[str] = field(default_factory=list)
    ours: int = 0
    others: Counter[str] = field(default_factory=Counter)

    def takes(self, path: str) -> bool:
        """Tell whether a file of a folder is one; counts what is none."""
        name = os.path.basename(path)
        suffix = os.path.splitext(name)[1].lower()
        if name.startswith("."):
            return False
        if self.is_ours(path):
            return False
        if kind_of(name) != FILE or suffix in IMAGE_SUFFIXES or why_unreadable(suffix):
            return True
        self.others[suffix or "without a suffix"] += 1
        return False

    def is_ours(self, path: str) -> bool:
        """Tell whether a file is a picture that a run has written; counts those."""
        ours = is_picture_of_ours(Path(path))
        self.ours += ours
        return ours

    def notes(self) -> list[str]:
        """Say it, a line for each kind."""
        found = []
        if self.others:
            kinds = some([f"{count} {kind}" for kind, count in self.others.most_common()], 5)
            found.append(f"files that are no images: {kinds}; name a file itself to label it")
        if self.ours:
            found.append(f"results of earlier runs that are left out: {self.ours}; name a file itself to label it")
        if self.links:
            found.append(f"links to folders are not followed ({some(self.links)}); name a folder itself")
        return found

    def seen(self) -> str:
        """Say what is in folders without images."""
        return f"; {'; '.join(self.notes())}" if self.notes() else ""


def _add(found: Found, path: str, key: str, every: int, named: bool) -> None:
    """Add a file with all images that it holds; once, however often it is named.

    Raises:
        InputError: Another file is called like it.
    """
    if key in found.files:
        if path != str(found.files[key]):
            raise InputError(
                f"'{found.files[key]}' and '{path}' would both be called '{key}'; label them by calls of their own"
            )
        return
    found.files[key] = Path(path)
    kind = kind_of(path) if os.path.isfile(path) else FILE  # pipes and what is gone: reading says so
    if kind == ARCHIVE:
        items, notes = archive_items(Path(path), key)
    elif kind == VIDEO:
        items, notes = video_items(Path(path), key, every)
    else:
        reason = "" if named else why_unreadable(os.path.splitext(path)[1].lower())
        items, notes = [Item(key, path, problem=f"'{key}' {reason}" if reason else "")], []
    found.items += items
    found.notes += notes


def _key(path: str, root: Path) -> str:
    if os.path.commonpath([path, root]) == str(root):
        return Path(os.path.relpath(path, root)).as_posix()
    return Path(os.path.splitdrive(path)[1]).as_posix().lstrip("/")


def _lines(path: Path) -> list[str]:
    """Read a list: a path in each line, relative ones below the folder of the list.

    A line that begins with ``#`` is a comment, unless there is such a file.

    Raises:
        InputError: It cannot be read, or is empty.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig", "surrogateescape")
    except OSError as error:
        raise InputError(f"list '{path}' cannot be read ({error.strerror}); check its permissions") from error
    lines = [line for line in text.replace("\r\n", "\n").split("\n") if line.strip()]
    paths = [(line, os.path.join(path.parent, line)) for line in lines]
    found = [place for line, place in paths if not line.startswith("#") or os.path.exists(place)]
    if not found:
        raise InputError(f"list '{path}' is empty; expected the path of an image in each line")
    return found


def _raise(error: OSError) -> None:
    raise InputError(f"folder '{error.filename}' cannot be read ({error.strerror}); check its permissions") from error
