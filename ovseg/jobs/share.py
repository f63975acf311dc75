"""Work shared out over processes of this machine: each takes every N-th item, and tells the first how it goes."""

from __future__ import annotations

import multiprocessing
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol, TypeAlias

import torch

from ovseg.errors import EnvironmentProblem, OvsegError, at_least
from ovseg.system.processes import ctrl_c_is_ours

Tell: TypeAlias = Callable[[Any], None]
"""Told of each item that is done, by whatever the work says of it."""
_PATIENCE = 5.0  # seconds for a process to end after it was told to


class Work(Protocol):
    """What is done with items; it is sent to other processes, so it can be pickled."""

    def __call__(self, items: Sequence[Any], rank: int, tell: Tell) -> None:
        """Do some items.

        Args:
            items: In order.
            rank: Number of the process, which chooses its accelerator.
            tell: To be called once for each item.
        """


def share_out(work: Work, items: Sequence[Any], processes: int, tell: Tell) -> None:
    """Do items in several processes of their own, which share the cores of the machine.

    They end with this one, however it ends.

    Args:
        work: What to do.
        items: What to do it on.
        processes: How many; not more than there are items.
        tell: Called in this process.

    Raises:
        OvsegError: A process could not go on; what was done is in the logs.
    """
    at_least("--processes", processes, 1)
    context = multiprocessing.get_context("spawn")
    processes = min(processes, len(items))
    threads = max(1, torch.get_num_threads() // max(1, processes))
    # Each has a line of its own: who is killed while it speaks on a common one keeps all others from speaking.
    lines = [context.Pipe(duplex=False) for _ in range(processes)]
    workers = [
        context.Process(target=_work_alone, args=(work, items[rank::processes], rank, threads, line), daemon=True)
        for rank, (_, line) in enumerate(lines)
    ]
    try:
        with ctrl_c_is_ours():
            for worker, (_, line) in zip(workers, lines, strict=True):
                worker.start()
                line.close()  # the worker's own then is the last one, and the line ends with it
        for message in _messages([line for line, _ in lines]):
            if isinstance(message, OvsegError):
                raise message
            tell(message)
        for worker in workers:
            worker.join()
    finally:
        _end(workers)
    for rank, worker in enumerate(workers):
        if worker.exitcode:
            raise EnvironmentProblem(
                f"process {rank + 1} of {processes} ended with {worker.exitcode} (memory?); what was done is kept, run "
                "the same command again to go on, or with fewer --processes"
            )


def _end(workers: Sequence[Any]) -> None:
    """End what still works, after an error or ctrl-C, and wait for it: nobody writes when this returns."""
    started = [worker for worker in workers if worker.pid is not None]
    for worker in started:
        if worker.is_alive():
            worker.terminate()
    for worker in started:
        worker.join(_PATIENCE)
        if worker.is_alive():
            worker.kill()
            worker.join()


def _messages(lines: list[Connection]) -> Iterator[Any]:
    """Yield what the processes say until all of them have ended."""
    while lines:
        ready = wait(lines)
        for line in [one for one in lines if one in ready]:
            try:
                message = line.recv()
            except (EOFError, OSError):  # it has ended, perhaps in the middle of a word
                lines.remove(line)
            else:
                yield message


def _work_alone(work: Work, items: Sequence[Any], rank: int, threads: int, line: Connection) -> None:
    """Run in a process of its own; a user's mistake goes to the first process instead of a traceback."""
    threading.Thread(target=_end_with_first, daemon=True).start()
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore")  # the first process has loaded the same, and said what there was to say
    try:
        work(items, rank, line.send)
    except OvsegError as error:
        line.send(error)


def _end_with_first() -> None:
    """End this process when the first one is gone, by a kill that lets it end nothing: the next run begins alone."""
    first = multiprocessing.parent_process()
    if first is not None:
        first.join()
        os._exit(1)
