"""Progress of long work: a bar with the time that is left on terminals, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from ovseg.system.progress import listening

if TYPE_CHECKING:
    from rich.progress import TaskID

EVERY = 30.0  # seconds between lines where there is no terminal


class Report(Protocol):
    """What is told of progress."""

    def __call__(self, done: int, total: int, what: str, failed: int = 0) -> None:
        """Show how many are done, of how many, of what, and how many of these have failed.

        Where something else is counted than before, time is counted anew.
        """


@contextlib.contextmanager
def progress(quiet: bool = False) -> Iterator[Report]:
    """Show progress on the error stream; also of texts that are embedded meanwhile.

    Args:
        quiet: Show nothing.

    Yields:
        What is to be told.
    """
    if quiet:
        yield lambda done, total, what, failed=0: None
        return
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
    left = (TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[rate]}"))
    with Progress(*columns, *left, console=terminal.console(stderr=True)) as bar:
        tasks: dict[str, TaskID] = {}
        started: dict[str, float] = {}

        def report(done: int, total: int, what: str, failed: int = 0) -> None:
            if what not in tasks:
                tasks[what], started[what] = bar.add_task(what, total=total, rate=""), time.monotonic()
            rate = _rate(done, failed, time.monotonic() - started[what])
            bar.update(tasks[what], completed=done, total=total, rate=rate)

        with _texts(report):
            yield report


def _texts(report: Report) -> contextlib.AbstractContextManager[None]:
    """Show what text towers tell; parts of single images are too many for a bar over images."""

    def hear(what: str, done: int, total: int) -> None:
        if what == "texts":
            report(done, total, what)

    return listening(hear)


def _rate(done: int, failed: int, seconds: float) -> str:
    pace = f"{done / seconds:.1f}/s" if seconds >= 1 else ""  # of a moment it would be any number
    return ", ".join(filter(None, (pace, f"{failed} failed" if failed else "")))


def _lines() -> Report:
    start = shown = time.monotonic()
    counted = ""

    def report(done: int, total: int, what: str, failed: int = 0) -> None:
        nonlocal start, shown, counted
        now = time.monotonic()
        if what != counted:
            if counted:  # in its first moment nothing is known of its pace
                start = shown = now
            counted = what
        if now - shown >= EVERY and done:
            shown = now
            left = round((now - start) / done * (total - done))
            time_left = f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d}"
            rate = _rate(done, failed, now - start)
            print(f"{done} of {total} {what}, {rate}, {time_left} left", file=sys.stderr, flush=True)

    return report
