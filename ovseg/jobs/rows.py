"""The log of a job: a line of JSON for each item, written at once, so that a killed job goes on where it was.

Every process appends to a file of its own in ``records/``; when all items are done they become ``images.jsonl``, in
their order. A line that a kill has cut in two does not count: its item is done again.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from ovseg.errors import InputError
from ovseg.system.files import atomic_write, check_writable
from ovseg.system.values import dump

WHOLE = "images.jsonl"
"""The log of a job that has ended."""
PARTS = "records"
"""Folder of the logs of the processes."""

Row: TypeAlias = dict[str, Any]
"""What is known of one item, as JSON values."""


class Kept(NamedTuple):
    """Where a row lies: rows may hold more than fits into memory for all items."""

    path: Path
    start: int

    def read(self) -> Row:
        """Read the row again."""
        with self.path.open("rb") as file:
            file.seek(self.start)
            row: Row = json.loads(file.readline())
        return row


def read_rows(folder: Path) -> Iterator[Row]:
    """Yield all that earlier and present processes have logged: that of the last end first, then the newest last."""
    return (row for row, _ in find_rows(folder))


def find_rows(folder: Path) -> Iterator[tuple[Row, Kept]]:
    """Yield rows as `read_rows` does, and where each lies."""
    parts = sorted((folder / PARTS).glob("*.jsonl"), key=lambda path: (path.stat().st_mtime_ns, path.name))
    for path in [folder / WHOLE, *parts]:
        if not path.is_file():
            continue
        start = 0
        with path.open("rb") as file:
            for line in file:  # ends at nothing but a line feed: names may have other ends of lines
                with contextlib.suppress(ValueError):  # the line that a kill has cut in two, perhaps in a letter
                    row = json.loads(line)
                    if isinstance(row, dict):
                        yield row, Kept(path, start)
                start += len(line)


@contextlib.contextmanager
def appending(folder: Path, name: str) -> Iterator[Callable[[Row], None]]:
    """Open a file of this process for rows.

    Args:
        folder: Of the job.
        name: Of the process.

    Yields:
        What writes a row; when it returns the row is out of this process, and a kill cannot undo it.

    Raises:
        InputError: The file cannot be written; what yields raises it, too.
    """
    path = check_writable(folder / PARTS) / f"{name}-{secrets.token_hex(4)}.jsonl"

    def write(row: Row) -> None:
        data = memoryview((dump(row) + "\n").encode())
        with _told(path):
            while data:  # a disk that is nearly full takes a part
                data = data[os.write(descriptor, data) :]

    with _told(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        yield write
    finally:
        os.close(descriptor)


def close_rows(folder: Path, rows: Iterable[Row]) -> None:
    """Replace the files of the processes by one.

    Args:
        folder: Of the job.
        rows: What it is to hold, in order.

    Raises:
        InputError: It cannot be written; the others stay then.
    """
    with atomic_write(folder / WHOLE) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(dump(row) + "\n" for row in rows)
    drop_parts(folder)


def drop_parts(folder: Path) -> None:
    """Delete the logs of the processes."""
    for path in (folder / PARTS).glob("*.jsonl"):
        path.unlink()
    with contextlib.suppress(OSError):
        (folder / PARTS).rmdir()


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"cannot write '{path}' ({error.strerror or error}); what was done is kept: free some space and run the "
            "same command again, or choose another --output"
        ) from error
