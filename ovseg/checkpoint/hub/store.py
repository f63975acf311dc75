"""What is kept on this disk: files with a record of where they came from and what they hold, and what others keep."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ovseg.checkpoint.hub.source import Source
from ovseg.checkpoint.whole import is_whole
from ovseg.errors import EnvironmentProblem, InputError, WeightsError
from ovseg.system.cache_dir import cache_path, user_home
from ovseg.system.files import atomic_write, file_hash

PART = ".part"
_CUT = "it ends too early, as after a copy or a download that broke off; copy or fetch it anew"
_KNOWN: dict[tuple[str, int, int], str] = {}  # checksums of files of others, by path, size and time; for the process


@dataclass(frozen=True)
class Stored:
    """A file in our folder of weights.

    Attributes:
        path: Where it is.
        source: Where it came from; None of a file that was put there by hand, and of a part.
        bytes: Its size.
        sha256: Its checksum when it was fetched; empty where that was not made.
        when: Of the download, as ISO 8601 in UTC; empty where that is not known.
        complete: False for what a broken download has left, which the next one goes on with.
    """

    path: Path
    source: Source | None
    bytes: int
    sha256: str = ""
    when: str = ""
    complete: bool = True

    @property
    def place(self) -> Path:
        """Where the file lies; of a part, where it will lie when it is whole."""
        return self.path if self.complete else self.path.with_name(self.path.name[1:].rsplit(".", 2)[0])


def weights_folder() -> Path:
    """Return the folder of all weights that were fetched.

    Raises:
        EnvironmentProblem: There is no place for a cache.
    """
    return cache_path() / "weights"


def place_of(source: Source) -> Path:
    """Return where a file is kept, or would be; who brings it by hand puts it there.

    Raises:
        EnvironmentProblem: There is no place for a cache.
    """
    return weights_folder() / source.path


def kept(source: Source, full: bool = False) -> Path | None:
    """Return a file that was fetched, or put in its place by hand; None where it is not there, or not what it was.

    It is compared with its record: by size and time, and by checksum where these have changed. One that is not what was
    fetched, or what the source expects, is not used; a warning says so. A file that was put there by hand may be
    replaced by hand, and has to reach to its end.

    Args:
        source: What is looked for.
        full: Compare the checksum in any case.
    """
    with contextlib.suppress(EnvironmentProblem):  # no home, no cache
        own = place_of(source)
        return own if own.is_file() and _is_sound(own, source, full) else None
    return None


def local(source: Source, full: bool = False) -> Path | None:
    """Return a file that is on this disk, without any network.

    That is one that was fetched (see `kept`), else one that the hub's own client or open_clip has in its cache.

    Args:
        source: What is looked for.
        full: Compare the checksum of what was fetched in any case.
    """
    if own := kept(source, full):
        return own
    for path in _elsewhere(source):
        if source.sha256 and not _known_hash(path).startswith(source.sha256.lower()):
            warnings.warn(f"'{path}' is not used: {_other(_known_hash(path), source.sha256)}", stacklevel=2)
        elif not is_whole(path):
            warnings.warn(f"'{path}' is not used: {_CUT}", stacklevel=2)
        else:
            return path
    return None


def etag_of(source: Source) -> str:
    """Return by what the server knew a file when it was fetched; empty where that is not known."""
    return str(_read_record(place_of(source)).get("etag", ""))


def write_record(
    path: Path, source: Source, sha256: str, commit: str = "", etag: str = "", when: str = "", of: Path | None = None
) -> None:
    """Write the record of a file beside it.

    Args:
        path: Where the file is or will be.
        source: Where it came from.
        sha256: Its checksum.
        commit: What the revision stood for, where that is known.
        etag: By what the server knows this content, likewise.
        when: It was fetched, as `now` says it; empty of a file that was put there by hand: such a record saves hashing
            it again, and binds nobody to what it was.
        of: The file itself where it is not yet in its place.

    Raises:
        InputError: The record cannot be written.
    """
    found = (of or path).stat()
    record: dict[str, Any] = {"source": asdict(source), "commit": commit, "etag": etag, "sha256": sha256, "when": when}
    record |= {"bytes": found.st_size, "mtime_ns": found.st_mtime_ns}
    with atomic_write(_record(path)) as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def now() -> str:
    """Return the time as records say it."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def stored() -> list[Stored]:
    """List what lies in our folder of weights, parts of broken downloads too, by path.

    Raises:
        EnvironmentProblem: There is no place for a cache.
    """
    found = []
    for path in sorted(weights_folder().rglob("*")):
        part = path.name.startswith(".") and path.name.endswith(PART)
        if not path.is_file() or (path.name.startswith(".") and not part):
            continue
        record = {} if part else _read_record(path)
        source = Source(**record["source"]) if record else None
        size = path.stat().st_size
        found.append(Stored(path, source, size, record.get("sha256", ""), record.get("when", ""), not part))
    return found


def remove(path: Path) -> int:
    """Remove a file of our folder of weights with its record, or a folder below it with all that is in it.

    Args:
        path: Of `Stored`, or a folder above such.

    Returns:
        How many bytes that were.

    Raises:
        InputError: It lies elsewhere, is not there, or cannot be removed.
    """
    root = weights_folder().resolve()
    target = path.parent.resolve() / path.name
    if not target.is_relative_to(root) or not os.path.lexists(target):
        raise InputError(f"'{path}' is not in the folder of weights '{root}'; expected a path that is listed there")
    try:
        if target.is_dir() and not target.is_symlink():
            size = sum(one.stat().st_size for one in target.rglob("*") if one.is_file())
            shutil.rmtree(target)
        else:
            size = target.stat().st_size if target.exists() else 0
            target.unlink()
            _record(target).unlink(missing_ok=True)
        _drop_empty(target.parent, root)
    except OSError as error:
        raise InputError(f"cannot remove '{path}' ({error.strerror or error}); check its permissions") from error
    return size


def _drop_empty(folder: Path, root: Path) -> None:
    """Remove folders in which nothing but hidden notes of ours are left."""
    while folder != root and folder.is_relative_to(root):
        left = list(folder.iterdir())
        if any(not one.name.startswith(".") or one.name.endswith(PART) or one.is_dir() for one in left):
            return
        shutil.rmtree(folder)
        folder = folder.parent


def _record(path: Path) -> Path:
    return path.with_name(f".{path.name}.json")


def _read_record(path: Path) -> dict[str, Any]:
    """Return the record of a file; empty where there is none that can be read."""
    try:
        record = json.loads(_record(path).read_text(encoding="utf-8"))
        Source(**record["source"])
        words = (record["sha256"], record["when"], record.get("commit", ""), record.get("etag", ""))
        whole = {"bytes", "mtime_ns"} <= record.keys() and all(isinstance(word, str) for word in words)
        return record if whole else {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, WeightsError):
        return {}


def _is_sound(path: Path, source: Source, full: bool) -> bool:
    """Tell whether a file of ours is what was fetched and what is expected; one without a record gets one."""
    record, there = _read_record(path), path.stat()
    same = record and (record["bytes"], record["mtime_ns"]) == (there.st_size, there.st_mtime_ns)
    found = record["sha256"] if same and not full else file_hash(path)
    commit, etag, when = (record.get(key, "") for key in ("commit", "etag", "when"))
    fetched = record["sha256"] if when else ""
    expected = [one for one in (fetched, source.sha256) if one and not found.startswith(one.lower())]
    problem = _other(found, expected[0]) if expected else "" if fetched or same or is_whole(path) else _CUT
    if problem:
        warnings.warn(f"'{path}' is not used: {problem}", stacklevel=3)
        return False
    if not same:
        with contextlib.suppress(InputError, OSError):  # a cache that can only be read: it is compared each time
            write_record(path, source, found, commit, etag, when)
    return True


def _other(found: str, expected: str) -> str:
    return f"its sha256 is {found}, expected {expected}; it was damaged or changed"


def _known_hash(path: Path) -> str:
    """Return the checksum of a file of others; made once a process while its size and time stay."""
    now = path.stat()
    key = (str(path), now.st_size, now.st_mtime_ns)
    if key not in _KNOWN:
        _KNOWN[key] = file_hash(path)
    return _KNOWN[key]


def _elsewhere(source: Source) -> Iterator[Path]:
    """Yield where else a file may be, if it is there: in the cache of the hub's client, or in open_clip's."""
    if source.repo and (folder := hub_snapshot(source.repo, source.revision)) is not None:
        path = folder / source.file
        if path.is_file():
            yield path
    if source.url and (home := user_home()) is not None:
        path = home / ".cache/clip" / urlsplit(source.url).path.rsplit("/", 1)[-1]
        if path.is_file():
            yield path


def hub_snapshot(repo: str, revision: str) -> Path | None:
    """Return the folder of a repository in the cache that the hub's own client keeps; None where it has none."""
    if (cache := _hub_cache()) is None:
        return None
    folder = cache / f"models--{repo.replace('/', '--')}"
    with contextlib.suppress(OSError):
        reference = folder / "refs" / revision
        commit = reference.read_text(encoding="utf-8").strip() if reference.is_file() else revision
        snapshot = folder / "snapshots" / commit
        return snapshot if commit and snapshot.is_dir() else None
    return None


def _hub_cache() -> Path | None:
    """Return what the environment says now; the hub's client looks once, at its import."""
    for name, below in (
        ("HF_HUB_CACHE", ""),
        ("HUGGINGFACE_HUB_CACHE", ""),
        ("HF_HOME", "hub"),
        ("XDG_CACHE_HOME", "huggingface/hub"),
    ):
        if named := os.environ.get(name):
            return Path(os.path.expandvars(os.path.expanduser(named)), below)
    home = user_home()
    return home / ".cache/huggingface/hub" if home else None
