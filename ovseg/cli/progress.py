"""Progress of long work: a bar with the time that is left on terminals, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from ovseg.system.progress import listening

EVERY = 30.0  # seconds between lines where there is no terminal


@contextlib.contextmanager
def progress() -> Iterator[Callable[[int, int, str], None]]:
    """Show progress on the error stream; also of texts that are embedded meanwhile.

    Yields:
        What is to be called with the number that is done, the number of all, and what is counted; when that is another
        thing than before, time is counted anew.
    """
    if not sys.stderr.isatty():
        lines = _lines()
        with _texts(lines):
            yield lines
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
        tasks = {}

        def report(done: int, total: int, what: str) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done, total=total)

        with _texts(report):
            yield report


def _texts(report: Callable[[int, int, str], None]) -> contextlib.AbstractContextManager[None]:
    """Show what text towers tell; parts of single images are too many for a bar over images."""

    def hear(what: str, done: int, total: int) -> None:
        if what == "texts":
            report(done, total, what)

    return listening(hear)


def _lines() -> Callable[[int, int, str], None]:
    start = shown = time.monotonic()
    counted = ""

    def report(done: int, total: int, what: str) -> None:
        nonlocal start, shown, counted
        now = time.monotonic()
        if what != counted:
            start, counted = now if counted else start, what
        if now - shown >= EVERY and done:
            shown = now
            left = round((now - start) / done * (total - done))
            time_left = f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d}"
            print(f"{done} of {total} {what}, {time_left} left", file=sys.stderr, flush=True)

    return report
