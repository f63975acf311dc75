"""Warnings of libraries, kept for the file that they are about: Pillow warns without saying of which it speaks."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_HERE = threading.local()  # files are read by several threads


@contextmanager
def collected() -> Iterator[list[str]]:
    """Collect what is given to `keep` in this thread.

    Yields:
        A list that grows, one line a warning.
    """
    before = getattr(_HERE, "lines", None)
    lines: list[str] = []
    _HERE.lines = lines
    try:
        yield lines
    finally:
        _HERE.lines = before


def collecting() -> bool:
    """Tell whether somebody collects in this thread."""
    return getattr(_HERE, "lines", None) is not None


def keep(message: Warning | str) -> bool:
    """Keep a warning for whoever collects in this thread; False where nobody does."""
    lines: list[str] | None = getattr(_HERE, "lines", None)
    if lines is None:
        return False
    line = " ".join(str(message).split())
    if line not in lines:
        lines.append(line)
    return True
