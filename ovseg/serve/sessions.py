"""The work on each photograph: kept in memory under a random name for a while, and within a limit for all of it."""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ovseg.data.images import LoadedImage
from ovseg.errors import InputError
from ovseg.segmenter import EncodedImage
from ovseg.serve.corrections import Corrected
from ovseg.serve.limits import MEGABYTE, Limits
from ovseg.system.device import CPU, give_back

_NAME_BYTES = 16
"""Of randomness in a name: whoever knows it may see the photograph, so it cannot be guessed."""


@dataclass(eq=False)
class Session:
    """One photograph and what was asked about it.

    Attributes:
        name: Random.
        photo: The photograph.
        sides: Answers by ``A`` and ``B``.
        encoded: What models have seen of it, by their names; it can be dropped and made anew: whoever changes it puts
            another in its place.
        lock: For whoever looks at it with a model, which may take long.
        changing: For whoever changes the answers, which is quick.
        touched: When that was last, in seconds of the monotonic clock.
    """

    name: str
    photo: LoadedImage
    sides: dict[str, Corrected] = field(default_factory=dict)
    encoded: dict[str, EncodedImage] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    changing: threading.Lock = field(default_factory=threading.Lock)
    touched: float = 0.0

    @property
    def bytes(self) -> int:
        """Roughly, of all that it holds."""
        sides = sum(side.bytes for side in list(self.sides.values()))
        return self.photo.pixels.nbytes + sides + sum(_bytes_of(one.encoded) for one in self.encoded.values())

    def side(self, name: str, turn: int | None = None) -> Corrected:
        """Return an answer.

        Args:
            name: ``A`` or ``B``.
            turn: `Corrected.turn` of the answer that is meant; None is the one that is there now.

        Raises:
            InputError: There is none yet, or another one has come since.
        """
        found = self.sides.get(name)
        if found is None:
            raise InputError(f"there is no answer '{name}' for this photograph yet; ask for one first")
        if turn not in (None, found.turn):
            raise InputError(f"answer {name} was changed meanwhile, perhaps in another tab; load the page anew")
        return found


class Sessions:
    """All of them."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits, self._clock = limits, clock
        self._all: OrderedDict[str, Session] = OrderedDict()
        self._lock = threading.Lock()

    def open(self, photo: LoadedImage) -> Session:
        """Keep a photograph; what was touched longest ago makes room for it."""
        session = Session(secrets.token_urlsafe(_NAME_BYTES), photo, touched=self._clock())
        with self._lock:
            self._all[session.name] = session
        self.tidy()
        return session

    def get(self, name: str) -> Session:
        """Return a session.

        Raises:
            InputError: It is gone, or never was.
        """
        with self._lock:
            session = self._all.get(name)
            if session is None:
                raise InputError(
                    f"this photograph is not here any more: it is kept for {self._limits.keep:g} minutes; open it again"
                )
            session.touched = self._clock()
            self._all.move_to_end(name)
            return session

    def tidy(self) -> None:
        """Drop what was not touched for long, then encodings and whole sessions until the rest keeps to the limit."""
        with self._lock:
            before, now = len(self._all), self._clock()
            for name in [name for name, own in self._all.items() if now - own.touched > 60 * self._limits.keep]:
                del self._all[name]
            most, total = self._limits.memory * MEGABYTE, sum(own.bytes for own in self._all.values())
            for own in list(self._all.values())[:-1]:
                if total > most:
                    total -= own.bytes
                    own.encoded = {}
                    total += own.bytes
            while total > most and len(self._all) > 1:
                total -= self._all.popitem(last=False)[1].bytes
            dropped = before > len(self._all)
        if dropped:
            give_back(CPU)

    def forget(self, models: Container[str]) -> None:
        """Drop what other models than these have seen: it would keep them in memory."""
        with self._lock:
            for own in self._all.values():
                if any(name not in models for name in own.encoded):
                    own.encoded = {name: one for name, one in own.encoded.items() if name in models}

    def __len__(self) -> int:
        """Return how many there are."""
        with self._lock:
            return len(self._all)

    @property
    def bytes(self) -> int:
        """Roughly, of all of them."""
        with self._lock:
            return sum(own.bytes for own in self._all.values())


def _bytes_of(thing: Any) -> int:
    """Return the bytes of the tensors that something holds."""
    if isinstance(thing, Tensor):
        return thing.nbytes
    if isinstance(thing, dict):
        return sum(map(_bytes_of, thing.values()))
    if isinstance(thing, (list, tuple)):
        return sum(map(_bytes_of, thing))
    return sum(map(_bytes_of, vars(thing).values())) if hasattr(thing, "__dict__") else 0
