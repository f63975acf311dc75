"""What is said and asked around a download: what it costs, whether it may be, how far it is."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path

from ovseg.checkpoint.hub.network import is_true
from ovseg.errors import DownloadRefused
from ovseg.system import terminal

LARGE = 100_000_000
"""Bytes above which somebody has to agree."""
VARIABLE = "OVSEG_DOWNLOAD"
EVERY = 30.0  # seconds between lines where there is no terminal

_QUIET: ContextVar[bool] = ContextVar("quiet", default=False)
Told = Callable[[int], None]


@contextlib.contextmanager
def quietly(quiet: bool = True) -> Iterator[None]:
    """Say nothing of downloads within the block, in this thread; questions and errors stay.

    Args:
        quiet: False changes nothing, for who passes an option on.
    """
    token = _QUIET.set(quiet or _QUIET.get())
    try:
        yield
    finally:
        _QUIET.reset(token)


def say(line: str) -> None:
    """Print a line on the error stream, unless within `quietly`."""
    if not _QUIET.get():
        print(terminal.one_line(line), file=sys.stderr, flush=True)


def megabytes(size: int | None) -> str:
    """Return a size in words, in MB of 10**6 bytes."""
    if size is None:
        return "unknown size"
    return f"{size / 1e6:.0f} MB" if size >= 1e7 else f"{max(size, 1000) / 1e6:.3g} MB"


def agree(what: str, size: int | None, licence: str, place: Path, consent: bool, command: str) -> None:
    """Return if a download may be: it is small, was asked for, or a person or the environment agrees.

    Args:
        what: Is to be fetched.
        size: Bytes to come; None where the server does not say, which counts as large.
        licence: Of the weights, in words.
        place: Where it would be kept.
        consent: It was asked for in so many words.
        command: Which asks for it in so many words, for the message; empty if there is none.

    Raises:
        DownloadRefused: Nobody agreed.
    """
    said = os.environ.get(VARIABLE, "").strip()
    if consent or (size is not None and size <= LARGE) or is_true(VARIABLE):
        return
    cost = f"'{what}' is a download of {megabytes(size)} (licence: {licence or 'not stated'}) into '{place}'"
    mend = f"run `{command}`, or set {VARIABLE}=yes" if command else f"set {VARIABLE}=yes"
    if said:
        raise DownloadRefused(f"{cost}, and {VARIABLE} is '{said}'; {mend}")
    if not somebody_there():
        raise DownloadRefused(f"{cost}, and there is nobody to ask; {mend}")
    print(f"{terminal.one_line(cost)}. Fetch it? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise DownloadRefused(f"{cost}, which you declined; {mend}, or name a model that is here: `ovseg models`")


def could_agree() -> bool:
    """Tell whether `agree` to a large download could end well: the environment says yes, or somebody can be asked."""
    return is_true(VARIABLE) if os.environ.get(VARIABLE, "").strip() else somebody_there()


def somebody_there() -> bool:
    """Tell whether somebody sits at a terminal who reads a question and can answer it."""
    return _is_terminal(sys.stdin) and _is_terminal(sys.stderr)


def _is_terminal(stream: object) -> bool:
    isatty = getattr(stream, "isatty", None)
    return bool(isatty and isatty())


@contextlib.contextmanager
def shown(what: str, size: int | None) -> Iterator[Told]:
    """Show how far a download is: a bar on terminals, a line now and then elsewhere.

    Yields:
        What is to be called with the bytes that are there.
    """
    if _QUIET.get():
        yield lambda done: None
        return
    if not _is_terminal(sys.stderr):
        yield _lines(what, size)
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=terminal.console(stderr=True)) as bar:
        task = bar.add_task(terminal.one_line(what), total=size)
        yield lambda done: bar.update(task, completed=done)


def _lines(what: str, size: int | None) -> Told:
    last = time.monotonic()

    def told(done: int) -> None:
        nonlocal last
        if time.monotonic() - last >= EVERY:
            last = time.monotonic()
            say(f"{what}: {megabytes(done)} of {megabytes(size)}")

    return told
