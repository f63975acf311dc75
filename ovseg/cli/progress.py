"""Progress of long work: a bar with the time that is left on terminals, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

EVERY = 30.0  # seconds between lines where there is no terminal


@contextlib.contextmanager
def progress(what: str = "images") -> Iterator[Callable[[int, int], None]]:
    """Show progress on the error stream.

    Args:
        what: Is counted.

    Yields:
        What is to be called with the number that is done and the number of all.
    """
    if not sys.stderr.isatty():
        yield _lines(what)
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from ovseg.system import terminal

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=terminal.console(stderr=True)) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _lines(what: str) -> Callable[[int, int], None]:
    start = shown = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown >= EVERY and done:
            shown = now
            left = round((now - start) / done * (total - done))
            time_left = f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d}"
            print(f"{done} of {total} {what}, {time_left} left", file=sys.stderr, flush=True)

    return report
