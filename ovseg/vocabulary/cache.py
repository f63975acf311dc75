"""Text embeddings on disk, shared by all processes of a user.

Layout: ``text/<space>/<id>.safetensors``. A space is one model (name, weights, precision) with one template set; each
file (shard) holds the embeddings of one ``put`` and never changes after its rename into place. So readers need no
lock, two writers cannot harm each other (the worst is a text that stands in two shards), and a killed process leaves
at most a temporary file. One shard per ``put`` keeps 10,000 classes in a few files; where many small ones gather,
they are merged: the union is in place before its parts are deleted, and a part that another process deletes under a
reader's hands is only a text that is computed again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import time
import uuid
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ovseg.errors import ConfigError, EnvironmentProblem
from ovseg.system.cache_dir import cache_advice, cache_dir

LIMIT_VARIABLE = "OVSEG_TEXT_CACHE_MB"
DEFAULT_LIMIT_MB = 512
SMALL_SHARD = 256  # rows; smaller shards are merged once there are more than MANY_SHARDS of them in a space
MANY_SHARDS = 32
_STALE_SECONDS = 3600.0  # a temporary file this old has lost its writer
_FORMAT = "1"
# Only files with such names are ever counted or deleted, whatever folder a user chooses.
_OURS = re.compile(r"/[0-9a-f]{24}/(\.[0-9a-f]{32}\.tmp|[0-9a-f]{32}\.safetensors)$")


class _Damaged(Exception):
    """A shard whose content cannot be trusted."""


@dataclasses.dataclass(frozen=True)
class CacheEntry:
    """One file of the cache, as `ovseg cache` lists it.

    Attributes:
        path: The file.
        model: Name of the CLIP.
        templates: How many templates were averaged.
        texts: How many texts it holds.
        size: Bytes.
        last_used: Seconds since 1970.
    """

    path: Path
    model: str
    templates: int
    texts: int
    size: int
    last_used: float


@dataclasses.dataclass(frozen=True)
class TextSpace:
    """Embeddings that may be compared with one another; ``key`` is the name of their folder."""

    model: str
    templates: int
    key: str


@dataclasses.dataclass(frozen=True)
class _Header:
    """What is known of a shard without reading its embeddings."""

    rows: dict[str, int]
    checksum: str
    model: str
    templates: int


def text_space(
    model: str,
    weights_hash: str,
    precision: str,
    templates: Sequence[str],
    long_text: bool = False,
    raw: bool = False,
) -> TextSpace:
    """Build the space of a model and a template set; everything that changes an embedding is in its key."""
    how = [name for name, on in (("long_text", long_text), ("raw", raw)) if on]
    content = json.dumps([_FORMAT, model, weights_hash, precision, list(templates), *how])
    return TextSpace(model, len(templates), hashlib.sha256(content.encode()).hexdigest()[:24])


class TextCache:
    """Embeddings of texts on disk, least recently used files dropped beyond a size limit.

    A cache must never stop the work it speeds up: a file that is damaged is deleted, and where the folder cannot be
    made or written to embeddings stay in memory, each with a warning.

    Args:
        folder: Where to keep them; None is ``text`` in the cache folder of ovseg. The attribute is None where that has
            no place.
        limit_mb: Size limit in MB (10**6 bytes); None reads the variable ``OVSEG_TEXT_CACHE_MB``, else 512.

    Raises:
        ConfigError: The limit is not a number, or negative.
    """

    def __init__(self, folder: str | Path | None = None, limit_mb: float | None = None) -> None:
        self._told: set[str] = set()
        self._memory: dict[tuple[str, str], Tensor] = {}  # what could not be written, by space and text
        self.folder = _standard_folder() if folder is None else Path(folder)
        self.limit = _limit_bytes(os.environ.get(LIMIT_VARIABLE, DEFAULT_LIMIT_MB) if limit_mb is None else limit_mb)
        self._headers: dict[Path, _Header] = {}  # shards never change, so a header is read once per process

    def get(self, space: TextSpace, texts: Sequence[str]) -> dict[str, Tensor]:
        """Return the embeddings ``(D,)`` float32 of those texts that are known."""
        found = {text: self._memory[space.key, text] for text in texts if (space.key, text) in self._memory}
        missing = set(texts) - found.keys()
        for path in self._shards(space.key):
            header = self._header(path)
            here = missing & header.rows.keys() if header else set()
            rows = self._read(path, header) if header and here else None
            if header is None or rows is None:
                continue
            with contextlib.suppress(OSError):
                os.utime(path)  # the time of last use, for `evict`
            found.update({text: rows[header.rows[text]].clone() for text in here})
            missing -= here
        return found

    def put(self, space: TextSpace, texts: Sequence[str], embeddings: Tensor) -> None:
        """Keep the embeddings ``(N, D)`` of texts; then tidy up and keep to the size limit."""
        if not texts:
            return
        try:
            self._write(space, texts, embeddings)
            self._merge(space)
            self.evict()
        except (OSError, EnvironmentProblem) as error:
            self._memory.update({(space.key, text): row for text, row in zip(texts, embeddings, strict=True)})
            reason = error if isinstance(error, EnvironmentProblem) else self._cannot_write(error)
            self._warn("write", f"{reason}; going on with embeddings in memory")

    def entries(self) -> list[CacheEntry]:
        """Return all readable files, most recently used first."""
        found = []
        for path in self._shards():
            with contextlib.suppress(OSError):
                stat = path.stat()
                if header := self._header(path):
                    size, used = stat.st_size, stat.st_mtime
                    found.append(CacheEntry(path, header.model, header.templates, len(header.rows), size, used))
        return sorted(found, key=lambda entry: -entry.last_used)

    def size(self) -> int:
        """Return how many bytes the cache takes up."""
        return sum(size for _, size, _ in self._files())

    def clear(self) -> int:
        """Delete every file of the cache, and nothing else, and return how many bytes that freed.

        Raises:
            ConfigError: A file does not let itself be deleted.
        """
        freed = 0
        for _, size, path in list(self._files()):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise ConfigError(
                    f"text cache file {path} cannot be deleted ({error.strerror or error}); delete it by hand"
                ) from error
            freed += size
            with contextlib.suppress(OSError):  # other files are still in it
                path.parent.rmdir()
        self._headers.clear()
        self._memory.clear()
        return freed

    def evict(self) -> None:
        """Delete the files used longest ago until the rest keeps to the limit, and what killed writers left behind."""
        kept = 0
        for used, size, path in sorted(self._files(), reverse=True):  # most recently used first
            if path.suffix == ".tmp":
                if time.time() - used > _STALE_SECONDS:
                    self._delete(path)
            elif kept + size > self.limit:
                self._delete(path)
            else:
                kept += size

    def _cannot_write(self, error: OSError) -> str:
        return f"text cache {self.folder} cannot be written ({error.strerror or error}); mend it, or `{cache_advice()}`"

    def _shards(self, key: str = "*") -> list[Path]:
        if self.folder is None:
            return []
        return sorted(path for path in self.folder.glob(f"{key}/*.safetensors") if _OURS.search(path.as_posix()))

    def _files(self) -> Iterator[tuple[float, int, Path]]:
        """Yield time of last use, bytes and path of every file of ours, temporary ones included."""
        for path in self.folder.glob("*/*") if self.folder else ():
            with contextlib.suppress(OSError):
                if _OURS.search(path.as_posix()):
                    stat = path.stat()
                    yield stat.st_mtime, stat.st_size, path

    def _header(self, path: Path) -> _Header | None:
        header = self._headers.get(path)  # looked up once: another thread may forget it at any time
        if header is None:
            try:
                header = self._headers[path] = _read_header(path)
            except FileNotFoundError:  # another process merged or evicted it
                return None
            except (_Damaged, OSError) as error:
                self._discard(path, error)
                return None
        return header

    def _read(self, path: Path, header: _Header) -> Tensor | None:
        """Return the embeddings ``(N, D)`` of a shard, checked against its checksum."""
        try:
            return _read_rows(path, header)
        except FileNotFoundError:
            return None
        except (_Damaged, OSError) as error:
            self._discard(path, error)
            return None

    def _write(self, space: TextSpace, texts: Sequence[str], embeddings: Tensor) -> Path:
        folder = (self.folder or cache_dir() / "text") / space.key  # without a folder this says why
        folder.mkdir(parents=True, exist_ok=True)
        name = uuid.uuid4().hex
        temporary, target = folder / f".{name}.tmp", folder / f"{name}.safetensors"
        try:
            temporary.write_bytes(_encode(space, texts, embeddings))
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
        return target

    def _merge(self, space: TextSpace) -> None:
        """Put the small shards of a space together when there are many."""
        known = [(path, header) for path in self._shards(space.key) if (header := self._header(path))]
        small = [(path, header) for path, header in known if len(header.rows) < SMALL_SHARD]
        if len(small) <= MANY_SHARDS:
            return
        union: dict[str, Tensor] = {}
        read = []
        for path, header in small:
            rows = self._read(path, header)
            if rows is not None:
                union.update({text: rows[i] for text, i in header.rows.items()})
                read.append(path)
        if union:
            self._write(space, list(union), torch.stack(list(union.values())))
        for path in read:
            self._delete(path)

    def _discard(self, path: Path, error: Exception) -> None:
        self._warn("damaged", f"text cache file {path} is damaged ({error}); its texts are computed again")
        self._delete(path)

    def _delete(self, path: Path) -> None:
        self._headers.pop(path, None)
        with contextlib.suppress(OSError):  # gone already, or held open by another process (Windows)
            path.unlink()

    def _warn(self, kind: str, message: str) -> None:
        """Warn once per kind, however many files are concerned."""
        if kind not in self._told:
            self._told.add(kind)
            warnings.warn(message, RuntimeWarning, stacklevel=4)


def _standard_folder() -> Path | None:
    try:
        return cache_dir() / "text"
    except EnvironmentProblem:  # told where something is to be written
        return None


def _limit_bytes(limit_mb: float | str) -> int:
    try:
        value = float(limit_mb)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise ConfigError(
            f"the limit of the text cache is '{limit_mb}'; expected a number of MB such as {DEFAULT_LIMIT_MB}"
            f" (argument or variable {LIMIT_VARIABLE})"
        )
    return int(value * 1e6)


def _checksum(texts: Sequence[str], rows: Tensor) -> str:
    digest = hashlib.sha256(json.dumps([list(texts), list(rows.shape)]).encode())
    digest.update(rows.numpy().tobytes())
    return digest.hexdigest()


def _encode(space: TextSpace, texts: Sequence[str], embeddings: Tensor) -> bytes:
    """Return a shard as safetensors bytes, with texts and checksum in its header."""
    rows = embeddings.detach().to(torch.float32).cpu().contiguous()
    header = {
        "format": _FORMAT,
        "model": space.model,
        "templates": str(space.templates),
        "texts": json.dumps(list(texts)),
        "checksum": _checksum(texts, rows),
    }
    return save({"embeddings": rows}, metadata=header)


def _read_header(path: Path) -> _Header:
    """Read texts and checksum, not the embeddings: eight bytes of length, then JSON (the safetensors format).

    Here and in `_read_rows` the file is opened exactly once. `safetensors.safe_open` opens it a second time by its
    path, which fails in its own ways when another process deletes the file in between.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > path.stat().st_size:
                raise ValueError("longer than the file")
            data = json.loads(file.read(length))["__metadata__"]
        rows = {text: i for i, text in enumerate(json.loads(data["texts"]))}
        return _Header(rows, data["checksum"], data["model"], int(data["templates"]))
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise _Damaged(f"{type(error).__name__} in its header") from error


def _read_rows(path: Path, header: _Header) -> Tensor:
    try:
        rows = load(path.read_bytes())["embeddings"]
    except (SafetensorError, KeyError, ValueError) as error:
        raise _Damaged(f"{type(error).__name__} in its tensors") from error
    if rows.dtype != torch.float32 or _checksum(list(header.rows), rows) != header.checksum:
        raise _Damaged("its checksum is wrong")
    return rows
