"""Requests in worker threads: a few at once, a queue of limited length, limited time, and an end in good order."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

from ovseg.errors import OvsegError
from ovseg.system.progress import listening

Result = TypeVar("Result")
_LOOK = 0.1  # seconds between two looks at a running request


class Busy(OvsegError):
    """The page cannot take the request now."""


class Halted(OvsegError):
    """The request was cancelled, or took too long."""


class Job:
    """One request on its way: what it is at, and whether it shall go on."""

    def __init__(self, seconds: float) -> None:
        self.line, self._seconds = "waiting for a worker", seconds
        self._begun = time.monotonic()
        self._running = False
        self._halted = threading.Event()

    def say(self, line: str) -> None:
        """Tell what is being done, and stop here where nobody waits for it any more.

        Raises:
            Halted: The request was cancelled, or took too long.
        """
        if self._halted.is_set():
            raise Halted("the request was cancelled")
        self.line = line

    def start(self) -> None:
        """Count the seconds from now on."""
        self._running, self._begun = True, time.monotonic()
        self.say("working")

    def halt(self) -> None:
        """Let it end at the next opportunity."""
        self._halted.set()

    def check(self) -> None:
        """Refuse to wait for what was cancelled, and longer than the limit.

        Raises:
            Halted: It was, or the limit is reached.
        """
        if self._halted.is_set():
            raise Halted("the request was cancelled")
        if time.monotonic() - self._begun > self._seconds:
            what = "took" if self._running else "waited for a worker"
            raise Halted(
                f"the request {what} longer than {self._seconds:g} seconds and was ended; try a smaller photograph, "
                "fewer words or a smaller model"
            )


class Work:
    """Runs requests in threads."""

    def __init__(self, workers: int, waiting: int, seconds: float, name: str = "ovseg-serve") -> None:
        """Start no thread yet.

        Args:
            workers: Requests at once.
            waiting: Requests that may wait.
            seconds: Each may run, and wait.
            name: Of the threads.
        """
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix=name)
        self._most, self._seconds = workers + waiting, seconds
        self._lock, self._closed = threading.Lock(), False
        self._jobs: dict[Job, str] = {}

    def watch(self, task: Callable[[Job], Result], owner: str = "") -> Generator[str, None, Result]:
        """Run a task, yield what it is at, and return what it returned.

        Whoever closes the generator cancels the task: it ends where it next says what it is at.

        Args:
            task: What to do.
            owner: Who may cancel it by `halt`; empty for nobody.

        Raises:
            Busy: Too many are waiting, or the page is about to end.
            Halted: The task took too long, or was cancelled.
        """
        job = self._admit(owner)
        future: Future[Result] = self._pool.submit(self._run, job, task)
        future.add_done_callback(lambda _: self._leave(job))
        try:
            while not wait([future], _LOOK).done:
                job.check()
                yield job.line
            return future.result()
        finally:
            job.halt()
            future.cancel()

    def call(self, task: Callable[[Job], Result], owner: str = "") -> Result:
        """Run a task and return what it returned; arguments and errors as `watch`."""
        steps = self.watch(task, owner)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                found: Result = end.value
                return found

    def close(self) -> None:
        """Take no more requests; those that run go on."""
        with self._lock:
            self._closed = True

    def halt(self, owner: str) -> int:
        """Cancel what runs or waits for somebody, and return how many requests that were."""
        with self._lock:
            own = [job for job, name in self._jobs.items() if name and name == owner]
        for job in own:
            job.halt()
        return len(own)

    @property
    def closed(self) -> bool:
        """Whether it takes no more requests."""
        with self._lock:
            return self._closed

    @property
    def running(self) -> int:
        """How many requests run or wait."""
        with self._lock:
            return len(self._jobs)

    def _admit(self, owner: str) -> Job:
        with self._lock:
            if self._closed:
                raise Busy("the page is about to end and takes no more requests; try again later")
            if len(self._jobs) >= self._most:
                raise Busy(f"{self._most} requests run or wait, as many as this page takes; try again later")
            job = Job(self._seconds)
            self._jobs[job] = owner
            return job

    def _leave(self, job: Job) -> None:
        with self._lock:
            del self._jobs[job]

    @staticmethod
    def _run(job: Job, task: Callable[[Job], Result]) -> Result:
        job.start()
        with listening(lambda what, done, total: job.say(f"looking at the photograph: {what} {done} of {total}")):
            return task(job)
