"""How the tokens of many texts go through a text tower of transformers: in passes, and never longer than need be."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ovseg.clip.hf.families import CAUSAL, MASKED, Family
from ovseg.clip.hf.vision import HfBlock
from ovseg.clip.text_passes import TEXTS_PER_PASS, Pass
from ovseg.clip.text_prefixes import CausalText

_LARGEST = 2
"""The end of a text in configs of before 2023, which means: where the largest token stands."""


class CausalTower(CausalText):
    """The text tower of a model of transformers whose tokens see only those before them; see `CausalText`."""

    def __init__(self, model: Any) -> None:
        own = model.text_model
        end = own.config.eos_token_id
        largest = end == _LARGEST and own.config.model_type == "clip_text_model"
        self.pool, self.eos = ("argmax", None) if largest else ("eos", end)
        self.tower = SimpleNamespace(
            token_embedding=own.embeddings.token_embedding,
            positional_embedding=own.embeddings.position_embedding.weight,
            ln_final=own.final_layer_norm,
            text_projection=model.text_projection,
        )
        self.blocks = [HfBlock(module) for module in own.encoder.layers]


def passes(model: Any, family: Family, tokens: Tensor) -> Iterator[Pass]:
    """Plan how tokens go through the text tower; see `ovseg.clip.text_passes.passes`.

    Args:
        model: Built.
        family: Its family.
        tokens: (N, n) int64 on the CPU, padded to the same length.
    """
    if family.texts == CAUSAL:
        yield from CausalTower(model).passes(tokens)
        return
    padding = model.config.text_config.pad_token_id
    lengths = torch.full((len(tokens),), tokens.shape[1])
    if family.texts == MASKED:
        places = torch.arange(1, tokens.shape[1] + 1)
        lengths = ((tokens != padding) * places).amax(1).clamp_min(1)
    for part in lengths.argsort(stable=True).split(TEXTS_PER_PASS):
        own = tokens[part, : int(lengths[part].max())]
        yield part, partial(_masked, model, own, padding) if family.texts == MASKED else partial(_padded, model, own)


def _masked(model: Any, tokens: Tensor, padding: int) -> Tensor:
    """Embed tokens (P, n) by the first of them, which does not see padding: (P, D), not of unit length."""
    tokens = tokens.to(model.logit_scale.device)
    hidden = model.text_model(input_ids=tokens, attention_mask=(tokens != padding).long()).last_hidden_state
    rows: Tensor = model.text_projection(hidden[:, 0])
    return rows


def _padded(model: Any, tokens: Tensor) -> Tensor:
    """Embed tokens (P, n) by a text tower that sees the padding, too: (P, D), not of unit length."""
    rows: Tensor = model.text_model(input_ids=tokens.to(model.logit_scale.device)).pooler_output
    return rows
