"""What the command lines of the tools share: an error that is understood is one line, and not a traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable

from ovseg.errors import OvsegError


def status_of(work: Callable[[], object]) -> int:
    """Do the work of a tool; the exit status is 0, or 2 after an error that it names in one line."""
    try:
        work()
    except OvsegError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
