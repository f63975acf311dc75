"""Words of given embeddings, for tests that need no text tower."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ovseg.contract import Words
from ovseg.vocabulary import ClassEntry, Vocabulary, parse_background


def make_words(
    rows: Tensor,
    classes: Tensor | None = None,
    kind: type[Words] = Words,
    things: Sequence[int] | None = None,
    **more: Any,
) -> Words:
    """Wrap rows (T, D); without classes (T,) each is its own, without things all are things."""
    own = torch.arange(len(rows)) if classes is None else classes
    entries = [ClassEntry((f"class {i}",), things is None or i in things) for i in range(int(own.max()) + 1)]
    return kind(
        embeddings=rows,
        query_to_class=own,
        texts=tuple(f"text {place}" for place in range(len(rows))),
        vocabulary=Vocabulary(tuple(entries)),
        background=parse_background("none"),
        templates="none",
        **more,
    )
