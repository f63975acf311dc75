"""Work in threads beside the main one: a few items at a time, in order, so that memory stays flat."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def worker_threads() -> int:
    """Return how many threads read or write files beside a model: one for each core, four at most."""
    return max(1, min(4, os.cpu_count() or 1))


def overlapped(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int, most: int
) -> Iterator[tuple[Item, Callable[[], Result]]]:
    """Run a function on items in threads, and give the items back in order.

    The next item is taken from ``items`` in the thread of the caller. Where that fails (an error, ctrl-C) what was
    taken before is still done; where the caller wants no more, only what has begun.

    Args:
        function: What to do; it must not depend on the thread.
        items: What to do it on.
        threads: How many run at once.
        most: Items that are taken before the first of them has been given back; at least 1.

    Yields:
        An item, and a function that waits for its result and returns it, or raises the error that came up.
    """
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="ovseg")
    try:
        for item in items:
            waiting.append((item, pool.submit(function, item)))
            while waiting and (len(waiting) > most or waiting[0][1].done()):
                first, future = waiting.popleft()
                yield first, future.result
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result
    except GeneratorExit:
        pool.shutdown(cancel_futures=True)
        raise
    finally:
        pool.shutdown()
