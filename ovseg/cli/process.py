"""What a command is to the system: streams that may be closed or full, signals that end it, text that was typed."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, TextIO

_SIGNALS = ("SIGTERM", "SIGHUP")  # SIGHUP is not there on Windows


class Stopped(KeyboardInterrupt):
    """The process was told to end; treated as ctrl-C is, so that everything is left in order.

    Attributes:
        number: Of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Output:
    """A text stream that never ends the work behind it: once it cannot be written, the rest is dropped.

    Letters that a terminal lacks are written as their codes.

    Attributes:
        problem: Why it could not be written; None while all is well.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.problem: OSError | None = None
        with contextlib.suppress(AttributeError, ValueError, OSError):  # a test's or a notebook's stream
            stream.reconfigure(errors="backslashreplace")  # type: ignore[attr-defined]

    def write(self, text: str) -> int:
        """Write text, or drop it."""
        if self.problem is None:
            with self._remembered():
                self._stream.write(text)
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write lines, or drop them."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Write what waits, or drop it."""
        if self.problem is None:
            with self._remembered():
                self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        """Be like the stream in everything else."""
        return getattr(self._stream, name)

    @contextlib.contextmanager
    def _remembered(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.problem = error
            # What still waits would be tried again, and complained of, when Python ends.
            with contextlib.suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)


@contextlib.contextmanager
def safe_streams() -> Iterator[Output]:
    """Put safe streams in the place of stdout and stderr.

    A stream that is closed becomes one that drops everything. Its number must not stay free: the next file that is
    opened would get it, and with it whatever libraries print.

    Yields:
        The one for stdout.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    before = sys.stdout, sys.stderr
    out, errors = (Output(stream if stream is not None else _nowhere()) for stream in before)
    sys.stdout, sys.stderr = out, errors
    try:
        yield out
    finally:
        out.flush()
        errors.flush()
        sys.stdout, sys.stderr = before


def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")


def lost_output(out: Output) -> str:
    """Say that a stream could not be written; empty where all is well, or where its reader wanted no more."""
    if out.problem is None or out.problem.errno == errno.EPIPE:
        return ""
    reason = out.problem.strerror or out.problem
    return f"standard output cannot be written ({reason}); what went into files is complete"


@contextlib.contextmanager
def ends_in_order() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise `Stopped` in the main thread; those that are ignored (nohup) stay so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner, before = os.getpid(), dict[int, Any]()

    def stop(number: int, _frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a process that was forked: nobody there would catch it
            os._exit(128 + number)
        for other in before:  # the rest is tidying up, which nothing shall interrupt
            signal.signal(other, signal.SIG_IGN)
        raise Stopped(number)

    for name in _SIGNALS:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def typed(text: str) -> str:
    """Return an argument as it was typed: under ``LC_ALL=C`` Python takes its UTF-8 for bytes of no meaning.

    Only for words. Names of files have to stay as they are, for so the system is asked for them.
    """
    try:
        return os.fsencode(text).decode("utf-8")
    except (UnicodeEncodeError, UnicodeDecodeError):  # no UTF-8 either
        return text
