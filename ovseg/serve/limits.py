"""How much a page takes from those who use it; nothing of it is part of a request."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from ovseg.errors import ConfigError, InputError

MEGABYTE = 10**6
_MOST_WORDS = 64_000


@dataclass(frozen=True)
class Limits:
    """What one request, and all of them together, may take.

    Attributes:
        megabytes: Of an uploaded photograph.
        pixels: Of a photograph, whatever its file says: a small file can claim a size that fills the memory.
        words: Classes, and words of the background; 64,000 at most, which the page can draw with corrections.
        waiting: Requests that may wait for a worker; more are sent away.
        seconds: A request may take, and may wait.
        workers: Requests that are computed at once.
        models: That stay loaded; the one used longest ago goes.
        memory: Megabytes of photographs with their results and encodings; those used longest ago go.
        keep: Minutes for which the work on a photograph is kept after it was last touched.

    Raises:
        ConfigError: A number is not positive, or too large.
    """

    megabytes: float = 32.0
    pixels: int = 50_000_000
    words: int = 1000
    waiting: int = 32
    seconds: float = 120.0
    workers: int = 2
    models: int = 3
    memory: float = 1024.0
    keep: float = 120.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        for field in fields(self):
            if not 0 < getattr(self, field.name) < math.inf:
                raise ConfigError(f"the limit {field.name} is {getattr(self, field.name)}; expected a positive number")
        if self.words > _MOST_WORDS:
            raise ConfigError(f"the limit words is {self.words}; expected at most {_MOST_WORDS}")

    @property
    def bytes(self) -> int:
        """Of an uploaded photograph."""
        return int(self.megabytes * MEGABYTE)

    @property
    def letters(self) -> int:
        """Of a list of words as it was typed or pasted."""
        return 100 * self.words

    def check_text(self, text: str) -> None:
        """Refuse a text that is too long to be read.

        Raises:
            InputError: It is.
        """
        if len(text) > self.letters:
            raise InputError(f"the words have {len(text):,} letters; this page takes {self.letters:,}: shorten them")

    def check_words(self, count: int) -> None:
        """Refuse more words than are taken.

        Raises:
            InputError: There are more.
        """
        if count > self.words:
            raise InputError(f"the list has {count:,} words; this page takes {self.words:,}: shorten it")
