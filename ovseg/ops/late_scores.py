"""Scores of queries on a grid: whole, or where they are too many, made for a few queries at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

AT_ONCE = 2**26
"""Numbers of scores that are held at a time, 256 MB."""


@dataclass(frozen=True)
class LateScores:
    """Scores (T, h, w) that nobody holds: whoever asks for some has them made, each time anew.

    Attributes:
        of: Makes the scores (t, h, w) float32 of queries (t,) int64.
        shape: (T, h, w).
        device: Where they are made.
    """

    of: Callable[[Tensor], Tensor]
    shape: tuple[int, int, int]
    device: torch.device

    def __len__(self) -> int:
        """Return the number of queries."""
        return self.shape[0]

    @property
    def at_a_time(self) -> int:
        """How many queries are made together, at least one."""
        return max(1, AT_ONCE // (self.shape[1] * self.shape[2]))


Scores = Tensor | LateScores
"""A tensor (T, h, w), or what makes some of it."""


def make_scores(of: Callable[[Tensor], Tensor], shape: tuple[int, int, int], device: torch.device) -> Scores:
    """Make scores now if all of them may be held at once, else later; arguments are those of `LateScores`."""
    late = LateScores(of, shape, device)
    return late.of(torch.arange(len(late), device=device)) if len(late) <= late.at_a_time else late


def some_of(scores: Scores, queries: Tensor) -> Tensor:
    """Return the scores (t, h, w) of queries (t,) int64."""
    return scores[queries] if isinstance(scores, Tensor) else scores.of(queries)


def all_of(scores: Scores) -> Iterator[Tensor]:
    """Yield the scores (t, h, w) of all queries in order: whole if they are there, else a few at a time."""
    if isinstance(scores, Tensor):
        yield scores
    else:
        yield from few_at_a_time(scores, torch.arange(len(scores), device=scores.device), len(scores))


def few_at_a_time(scores: Scores, queries: Tensor, size: int) -> Iterator[Tensor]:
    """Yield the scores (t, h, w) of queries (n,) int64 in their order, at most ``size`` of them at a time."""
    if isinstance(scores, Tensor):
        yield from (scores[part] for part in queries.split(size) if len(part))
        return
    for group in queries.split(scores.at_a_time):
        yield from scores.of(group).split(size) if len(group) else ()
