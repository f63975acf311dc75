"""Where tables are printed: as wide as the terminal, or as wide as they are in a pipe or a file."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

WIDE = 10_000
"""Columns where there is no terminal: rich would take 80, and cut away what is beyond."""


def console(stderr: bool = False) -> Console:
    """Make what tables and progress are printed on; the one place that does.

    Args:
        stderr: Print on the error stream.
    """
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    wide = stream is None or not stream.isatty()
    return Console(stderr=stderr, width=WIDE if wide else None)
