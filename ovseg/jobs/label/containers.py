"""Archives and videos, whose images are read without being extracted: which are there, and each of them in order."""

from __future__ import annotations

import contextlib
import io
import lzma
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ovseg.data.kinds import IMAGE_SUFFIXES, why_unreadable
from ovseg.errors import InputError
from ovseg.system.values import is_utf8, some

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
VIDEOS = frozenset(".avi .m4v .mkv .mov .mp4 .mpeg .mpg .ogv .webm .wmv".split())
FILE, ARCHIVE, VIDEO = "file", "archive", "video"
_DAMAGED = (tarfile.TarError, OSError, EOFError, ValueError, zlib.error, lzma.LZMAError)
"""What comes of archives that are damaged."""
DIGITS = 6
"""Frames are named by their number in the video, from 0, with so many digits at least."""


@dataclass(frozen=True)
class Item:
    """One image of a job, wherever it lies.

    Attributes:
        key: What it is called: its path below the folder of all inputs; those of an archive and of a video are below
            its name (``shard.tar/a.jpg``, ``clip.mp4/000040``).
        path: The file, which may hold others, too.
        kind: `FILE`, `ARCHIVE` or `VIDEO`.
        start: Where in it: a byte of the archive, or the number of a frame.
        size: Bytes in the archive.
        problem: Why it cannot be read; empty if that is not known yet.
        inner: Its path in the archive, or the number of the frame; empty for a file.
        name: What its results are called; chosen when all images are known.
    """

    key: str
    path: str
    kind: str = FILE
    start: int = 0
    size: int = 0
    problem: str = ""
    inner: str = ""
    name: str = ""

    @property
    def file(self) -> str:
        """What the file is called that it lies in."""
        return self.key.removesuffix(f"/{self.inner}") if self.inner else self.key

    @property
    def place(self) -> str:
        """Where it lies: that of an archive behind the archive."""
        return f"{self.path}/{self.inner}" if self.inner else self.path


def kind_of(name: str) -> str:
    """Tell by its name what a file is; what is neither archive nor video counts as a `FILE`."""
    lower = name.lower()
    return ARCHIVE if lower.endswith(ARCHIVES) else VIDEO if PurePosixPath(lower).suffix in VIDEOS else FILE


def archive_items(path: Path, key: str) -> tuple[list[Item], list[str]]:
    """List the images of a tar archive, in its order; a name that comes again stands for the last file of it.

    Args:
        path: Of the archive, compressed or not.
        key: What it is called.

    Returns:
        The images, and what was left out of it. A part that is damaged is an item with a problem.
    """
    found: dict[str, Item] = {}
    others, again = Counter[str](), 0
    problem = ""
    try:
        with tarfile.open(path, "r:*") as archive:
            for member in archive:
                name = _safe(member.name)
                suffix = PurePosixPath(name).suffix.lower()
                reason = why_unreadable(suffix)
                if member.isdir() or not name:
                    continue
                if not member.isfile() or PurePosixPath(name).name.startswith("."):
                    others["links and hidden files"] += 1
                elif suffix not in IMAGE_SUFFIXES and not reason:
                    others[suffix or "without a suffix"] += 1
                else:
                    inner = f"{key}/{name}"
                    again += inner in found
                    sparse = "is a sparse file; pack the archive without --sparse" if member.issparse() else ""
                    text = f"'{inner}' {reason or sparse}" if reason or sparse else ""
                    found.pop(inner, None)
                    found[inner] = Item(inner, str(path), ARCHIVE, member.offset_data, member.size, text, name)
    except _DAMAGED as error:
        problem = f"archive '{path}' is damaged ({_line(error)}); {len(found)} images before that are read"
    if not problem and not found:
        problem = f"archive '{path}' holds no images{_kinds(others)}"
    notes = [f"'{path.name}' holds what is no image{_kinds(others)}"] if others and found else []
    notes += [f"'{path.name}' holds names twice ({again}); the last file of each counts"] if again else []
    return [*found.values(), *([Item(key, str(path), ARCHIVE, problem=problem)] if problem else [])], notes


def video_items(path: Path, key: str, every: int) -> tuple[list[Item], list[str]]:
    """List every n-th frame of a video; all are counted, for what a video says of itself is often wrong.

    Returns:
        The frames, and what is worth a note. A video that cannot be read is an item with a problem.
    """
    if not is_utf8(str(path)):  # OpenCV would end the process
        problem = f"video '{path}' has a name that is no UTF-8, which OpenCV cannot open; rename it"
        return [Item(key, str(path), VIDEO, problem=problem)], []
    with _opened_video(path) as video:
        said, count = _said(video), 0
        while video.grab():
            count += 1
    if not count:
        problem = f"video '{path}' cannot be read: not one frame comes out of it; convert it, for example with ffmpeg"
        return [Item(key, str(path), VIDEO, problem=problem)], []
    frames = [
        Item(f"{key}/{n:0{DIGITS}d}", str(path), VIDEO, n, inner=f"{n:0{DIGITS}d}") for n in range(0, count, every)
    ]
    short = said > count + 1  # the last frame of some is counted and never comes
    return frames, [f"'{path.name}': {count} of {said} frames can be read"] if short else []


class Fetcher:
    """Gives what images are read from, in the order of the items: an archive is read through once, a video, too."""

    def __init__(self) -> None:
        """Open nothing yet."""
        self._path, self._next = "", 0
        self._held: Any = None

    def __call__(self, item: Item) -> Any:
        """Return a path, an open file or (H, W, 3) uint8 RGB.

        Raises:
            InputError: It cannot be read.
        """
        if item.problem:
            raise InputError(item.problem)
        if item.kind == FILE:
            return Path(item.path)
        return self._member(item) if item.kind == ARCHIVE else self._frame(item)

    def close(self) -> None:
        """Let go of what is open."""
        if self._held is not None:
            close = getattr(self._held, "close", None) or self._held.release
            close()
        self._path, self._next, self._held = "", 0, None

    def _member(self, item: Item) -> io.BytesIO:
        try:
            if self._path != item.path:
                self.close()
                self._held, self._path = tarfile.open(item.path, "r:*"), item.path
            file = self._held.fileobj
            file.seek(item.start)
            data = file.read(item.size)
        except _DAMAGED as error:
            self.close()
            raise InputError(f"'{item.key}' cannot be read from its archive ({_line(error)})") from error
        if len(data) < item.size:
            raise InputError(f"'{item.key}' is cut off: {len(data)} of {item.size} bytes are in its archive")
        stream = io.BytesIO(data)
        stream.name = item.key
        return stream

    def _frame(self, item: Item) -> np.ndarray:
        import cv2

        if self._path != item.path or item.start < self._next:
            self.close()
            self._held, self._path = cv2.VideoCapture(item.path), item.path
        while self._next <= item.start and self._held.grab():
            self._next += 1
        good, pixels = self._held.retrieve() if self._next > item.start else (False, None)
        if not good or pixels is None:
            raise InputError(f"frame {item.start} of video '{item.path}' cannot be read; convert it, as with ffmpeg")
        return np.ascontiguousarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))


@contextlib.contextmanager
def _opened_video(path: Path) -> Iterator[Any]:
    import cv2

    video = cv2.VideoCapture(str(path))
    try:
        yield video
    finally:
        video.release()


def _said(video: Any) -> int:
    import cv2

    return int(video.get(cv2.CAP_PROP_FRAME_COUNT))


def _safe(name: str) -> str:
    """Return the name of a member as a path below the archive, whatever it tries."""
    parts = [part for part in PurePosixPath(name.replace("\0", "")).parts if part not in ("/", "//", ".")]
    return "/".join("up" if part == ".." else part for part in parts)


def _kinds(others: Counter[str]) -> str:
    return f" ({some([f'{count} {kind}' for kind, count in others.most_common()])})" if others else ""


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
