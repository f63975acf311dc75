"""How lines and tables are printed: safe for a terminal, and as wide as they are in a pipe or a file."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

WIDE = 10_000
"""Columns where there is no terminal: rich would take 80, and cut away what is beyond."""

# Control characters, which a terminal obeys, and those that turn the direction of what follows.
_OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def one_line(text: object) -> str:
    """Return text that may hold names of files as one line that tells a terminal nothing: other characters as codes."""
    return _OBEYED.sub(lambda found: repr(found[0])[1:-1], str(text))


def console(stderr: bool = False) -> Console:
    """Make what tables and progress are printed on; the one place that does.

    Args:
        stderr: Print on the error stream.
    """
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    wide = stream is None or not stream.isatty()
    return Console(stderr=stderr, width=WIDE if wide else None)
