"""Downloads that go on where they stopped, checked by size and checksum, and unpacking that is safe to repeat."""

from __future__ import annotations

import sys
import tarfile
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError

from ovseg.data.benchmarks.base import DOWNLOADS, Place, Source
from ovseg.errors import InputError
from ovseg.system.files import file_hash

CHUNK = 1 << 20
_BROKEN = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError, ValueError)


def unfinished(place: Place, source: Source) -> Path:
    """Return the file that exists while a source is being unpacked, and after that was broken off."""
    return place.root / DOWNLOADS / f"{source.file}.unpacking"


def fetch(place: Place, source: Source, again: bool = False) -> None:
    """Bring what a source provides below the root: download it where that is allowed, and unpack it.

    Args:
        place: Where to.
        source: What.
        again: Unpack it even if some of it is there; files that are there in full stay.

    Raises:
        InputError: It cannot be downloaded, only the user may fetch it, or the archive is corrupt.
    """
    folder = place.root / DOWNLOADS
    archive = folder / source.file
    marker = unfinished(place, source)
    if source.present(place.folder) and not again and not marker.exists():
        return
    if not archive.is_file():
        if not source.url:
            raise place.missing(source.provides[0])
        download(source.url, archive, source.checksum, source.size)
    target = place.root / source.into
    target.mkdir(parents=True, exist_ok=True)
    marker.touch()
    unpack(archive, target)
    for name in source.inside:
        if (place.root / name).is_file():
            unpack(place.root / name, (place.root / name).parent)
    marker.unlink()


def download(url: str, path: Path, checksum: str = "", size: int = 0) -> None:
    """Download a file; what an interrupted run left in ``PATH.part`` is kept and continued.

    Args:
        url: Where from.
        path: Where to.
        checksum: Expected, as ``sha256:HEX``; empty where it is not known.
        size: Expected bytes; 0 where they are not known.

    Raises:
        InputError: There is no connection, or what came is not what was expected.
    """
    part = path.with_name(f"{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            _receive(answer, part, have if answer.status == 206 else 0, path.name)
    except HTTPError as error:
        if not (have and error.code == 416):  # the part is the whole file already
            raise InputError(_cannot(url, path, f"{error.code} {error.reason}")) from error
    except (OSError, ValueError) as error:
        raise InputError(_cannot(url, path, str(getattr(error, "reason", error)))) from error
    got = part.stat().st_size
    algorithm, _, digest = checksum.partition(":")
    if (size and got != size) or (checksum and file_hash(part, algorithm) != digest):
        part.unlink()
        raise InputError(
            f"'{url}' gave {got} bytes that are not the expected file ({size or 'unknown'} bytes, "
            f"{checksum or 'unknown checksum'}); try again, or fetch it by hand into '{path}'"
        )
    part.replace(path)


def _receive(answer: Any, part: Path, have: int, what: str) -> None:
    from rich.progress import wrap_file

    length = int(getattr(answer, "length", 0) or 0)
    quiet = not sys.stderr.isatty()
    with part.open("r+b" if have else "wb") as file, wrap_file(answer, length, description=what, disable=quiet) as body:
        file.seek(have)
        while chunk := body.read(CHUNK):
            file.write(chunk)
        file.truncate()
    if length and part.stat().st_size < have + length:
        raise OSError(f"the connection broke after {part.stat().st_size} bytes")


def _cannot(url: str, path: Path, reason: str) -> str:
    return f"cannot download '{url}' ({reason}); run again to go on, or fetch it by hand into '{path}'"


def unpack(archive: Path, into: Path) -> None:
    """Unpack a zip or tar archive over what is there; any other file is copied.

    Files that are there in full are passed over, so that a killed run goes on. Nothing is written outside `into`.

    Raises:
        InputError: The archive is corrupt; it is named.
    """
    try:
        for name, size, reader in _members(archive):
            target = (into / name).resolve()
            if not target.is_relative_to(into.resolve()):
                raise ValueError(f"its member '{name}' points outside")
            if target.is_file() and target.stat().st_size == size:
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                while chunk := reader.read(CHUNK):
                    file.write(chunk)
    except _BROKEN as error:
        raise InputError(
            f"archive '{archive}' cannot be unpacked ({' '.join(str(error).split())[:100]}); delete it, fetch it again"
        ) from error


def _members(archive: Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    """Yield name, size and content of the files of an archive, links left out."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            for info in packed.infolist():
                if not info.is_dir():
                    with packed.open(info) as reader:
                        yield info.filename, info.file_size, reader
    elif archive.suffix in (".zip", ".tar", ".gz", ".tgz", ".xz"):
        with tarfile.open(archive) as packed:
            for member in packed:
                content = packed.extractfile(member) if member.isfile() else None
                if content is not None:
                    yield member.name, member.size, content
    else:
        with archive.open("rb") as reader:
            yield archive.name, archive.stat().st_size, reader
