"""How the tokens of many texts go through a text tower: in passes of like texts, and never longer than need be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ovseg.clip.text_prefixes import CausalText

TEXTS_PER_PASS = 64

Pass = tuple[Tensor, Callable[[], Tensor]]
"""Places (P,) of texts among all, and what gives their rows (P, D) when it is called."""


def passes(model: Any, tokens: Tensor) -> Iterator[Pass]:
    """Plan how tokens go through the text tower of an open_clip model.

    Causal towers compute what texts begin with alike once (`CausalText`). Towers of Hugging Face look at no padding, so
    texts of like length go together and their padding is cut. All others, such as SigLIP's, look at the padding, too:
    they get all of it.

    Args:
        model: A built model.
        tokens: (N, n) int64 on the CPU.

    Yields:
        Each pass; all of them have every text once.
    """
    if causal := CausalText.of(model):
        yield from causal.passes(tokens)
        return
    padding = getattr(getattr(getattr(model, "text", None), "config", None), "pad_token_id", None)
    places = torch.arange(1, tokens.shape[1] + 1)
    lengths = torch.full((len(tokens),), tokens.shape[1])
    if padding is not None:
        lengths = ((tokens != padding) * places).amax(1).clamp_min(1)
    for part in lengths.argsort(stable=True).split(TEXTS_PER_PASS):
        yield part, partial(_whole, model, tokens[part, : int(lengths[part].max())])


def _whole(model: Any, tokens: Tensor) -> Tensor:
    """Run open_clip's own text tower; the rows (P, D) are not of unit length."""
    rows: Tensor = model.encode_text(tokens.to(model.logit_scale.device), normalize=False)
    return rows
