"""How far work within one image has come, told to whoever listens; nothing of it stays in a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeAlias

Listener: TypeAlias = Callable[[str, int, int], None]

_LISTENER: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Call a function with what is counted, how many are done and how many there are, in this thread."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


def report(what: str, done: int, total: int) -> None:
    """Tell that so many of all are done."""
    if listener := _LISTENER.get():
        listener(what, done, total)


@contextmanager
def part_of(what: str, before: int, total: int) -> Iterator[None]:
    """Count what is told within as a part of something larger, of which so many were done before."""
    listener = _LISTENER.get()
    if listener is None:
        yield
        return
    with listening(lambda _, done, __: listener(what, before + done, total)):
        yield
