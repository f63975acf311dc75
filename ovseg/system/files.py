"""Files: written so that a reader never sees half of one (a temporary file beside it, then a rename), and hashed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from ovseg.errors import InputError

_CHUNK = 1 << 20  # bytes


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path to write to; it becomes ``path`` in one step when the block ends without an error.

    Whoever opens ``path`` sees the old content or the new one, whole, even when the process is killed half-way
    (by SIGKILL or a power cut; then a hidden ``.*.tmp*`` file may stay behind). The temporary file has the suffix of
    ``path``, because Pillow and numpy choose the format by it. On an error in the block it is removed and ``path``
    stays as it was.

    Args:
        path: The file to create or replace; its folder must exist (see `check_writable`).

    Yields:
        The path of an empty file in the same folder.

    Raises:
        InputError: The folder is missing or not writable, ``path`` is a folder, or the disk is full.
    """
    target = Path(path)
    if os.path.isdir(target):  # unlike that of Path it says no to names that are too long
        raise InputError(f"cannot write '{target}': it is a folder; expected a file name, for example '{target}/out'")
    temporary = target.parent / f".{secrets.token_hex(6)}.tmp{target.suffix}"
    try:
        # "x" and the ordinary mode bits: unlike tempfile's 0600, the result is as readable as any other new file.
        temporary.open("xb").close()
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())  # else a power cut after the rename could leave an empty file under the final name
        os.replace(temporary, target)
    except OSError as error:
        if error.errno is None:  # raised by a library for its own reasons (Pillow does), not by the file system
            raise
        raise InputError(_cannot_write(target, error)) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def check_writable(folder: str | os.PathLike[str]) -> Path:
    """Create a folder with its parents if need be and prove, by a temporary file, that it can be written to.

    Call it before long work, so that an output that cannot be written is found out first.

    Args:
        folder: Where results will go.

    Returns:
        The folder as a path.

    Raises:
        InputError: It cannot be created or written to, or a file is in its place.
    """
    target = Path(folder)
    probe = target / f".{secrets.token_hex(6)}.tmp"
    try:
        target.mkdir(parents=True, exist_ok=True)
        probe.open("xb").close()
        probe.unlink()
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(f"output folder '{target}' cannot be made: a file is in its place; choose another") from error
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"output folder '{target}' cannot be written to ({reason}); choose another") from error
    return target


def check_makeable(folder: str | os.PathLike[str]) -> Path:
    """Prove that a folder is there and can be written to, or could be made, without making it.

    Args:
        folder: Where results will go, if all else is right.

    Returns:
        The folder as a path.

    Raises:
        InputError: It could not be made or written to, or a file is in its place.
    """
    target, there = Path(folder), Path(os.path.abspath(folder))
    while not os.path.lexists(there):
        there = there.parent
    try:
        check_writable(there)
    except InputError as error:
        raise InputError(str(error).replace(f"'{there}'", f"'{target}'", 1)) from error
    return target


def _cannot_write(target: Path, error: OSError) -> str:
    """Say in one line why a file could not be written and what to do about it."""
    if not os.path.isdir(target.parent):
        return f"cannot write '{target}': there is no folder '{target.parent}'; create it first"
    return f"cannot write '{target}' ({error.strerror or error}); choose another place or free some space"


def rewind(log: Path, step: int) -> None:
    """Drop the rows that an interrupted run wrote after its last checkpoint, and a last line that was cut in two.

    Args:
        log: A file of JSON rows, each with its ``step``; it is made if there is none.
        step: Rows from this step on are dropped.

    Raises:
        InputError: The file cannot be written.
    """
    rows = []
    for line in log.read_text().splitlines() if log.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    with atomic_write(log) as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows if row["step"] < step))


def file_hash(path: str | os.PathLike[str], algorithm: str = "sha256") -> str:
    """Return the checksum of a file in hex digits, read a piece at a time.

    Raises:
        OSError: It cannot be read.
    """
    digest = hashlib.new(algorithm)
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
