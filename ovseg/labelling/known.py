"""Which classes of a request the head of a model was trained on."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from ovseg.contract import Words


def seen_columns(words: Words, trained: Collection[str]) -> Tensor:
    """Return which columns (C,) of words share a name, to the letter, with those of training."""
    known = frozenset(trained)
    names = [entry.queries for entry in words.vocabulary]
    alone = [(text,) for text, own in zip(words.texts, words.query_to_class.tolist(), strict=True) if own < 0]
    return torch.tensor([not known.isdisjoint(own) for own in (*names, *alone)])
