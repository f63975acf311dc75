"""Lines of the log on long work that is no training step: how much is done, how much time is left."""

from __future__ import annotations

import logging
import time
from datetime import timedelta

EVERY = 20.0  # seconds between lines

log = logging.getLogger("ovseg.train")


class Pace:
    """Says now and then how far it is; called with what is done and what is to be done."""

    def __init__(self, what: str) -> None:
        """Start the clock; `what` is counted."""
        self.what, self.start = what, time.monotonic()
        self.shown = self.start

    def __call__(self, done: int, total: int) -> None:
        """Write a line if the last one is long enough ago."""
        now = time.monotonic()
        if now - self.shown >= EVERY and done:
            self.shown = now
            left = timedelta(seconds=round((now - self.start) / done * (total - done)))
            log.info(f"{self.what}: {done} of {total} images, eta {left}")
