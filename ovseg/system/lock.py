"""A folder that one process alone works in."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

from ovseg.errors import InputError
from ovseg.system.files import check_writable

LOCK = ".lock"


@contextlib.contextmanager
def only_here(folder: Path) -> Iterator[None]:
    """Keep other processes that ask for it out of a folder until the block ends, however the process ends.

    Args:
        folder: Made if need be; while the block runs it holds a hidden file. Where it was made and nothing came into it
            it goes again.

    Raises:
        InputError: Another process is in it, or it cannot be written to.
    """
    import fcntl

    was_there = folder.is_dir()
    path = check_writable(folder) / LOCK
    while True:
        with path.open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(
                    f"another process is at work in '{folder}'; wait until it has ended, or choose another --output"
                ) from error
            except OSError as error:
                warnings.warn(
                    f"'{folder}' lies on a disk that knows no locks ({error.strerror}); see to it that nothing else "
                    "works in it meanwhile",
                    stacklevel=3,
                )
            if not _is_at(path, file.fileno()):  # whoever had it has just deleted it
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
                if not was_there:
                    with contextlib.suppress(OSError):  # it holds something
                        folder.rmdir()
            return


def _is_at(path: Path, descriptor: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    return False
