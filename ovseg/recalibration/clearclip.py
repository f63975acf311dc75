"""ClearCLIP: query-query attention without residual and feed-forward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ovseg.clip.features import Context
from ovseg.clip.tokens import Block
from ovseg.errors import at_least, one_of
from ovseg.recalibration.base import RECALIBRATION_REGISTRY, Recalibration, attend

_MODEL_TYPES = ("ClearCLIP", "vanilla", "MaskCLIP", "SCLIP")


@RECALIBRATION_REGISTRY.register()
class ClearCLIP(Recalibration):
    """Self-attention of ClearCLIP (Lan et al., ECCV 2024; github.com/mc-lan/ClearCLIP).

    What the original calls ``ignore_residual=False`` is ``residual=True, feed_forward=True``.
    """

    residual, feed_forward = False, False

    def __init__(self, *, model_type: str = "ClearCLIP", last_n_layers: int = 1, **common: Any) -> None:
        """Choose a row of the paper's ablations.

        Args:
            model_type: Attention: ``ClearCLIP`` (query-query), ``vanilla``, ``MaskCLIP`` (identity) or ``SCLIP``.
            last_n_layers: Over how many of the last blocks the outputs are summed.
            common: Options of `Recalibration`.
        """
        super().__init__(**common)
        self.model_type = one_of("model_type", model_type, _MODEL_TYPES)
        self.blocks = at_least("last_n_layers", last_n_layers, 1)

    def attention(self, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
        """Mix values by the chosen attention."""
        if self.model_type == "vanilla":
            return attend(q, k, v)
        if self.model_type == "MaskCLIP":
            return v
        if self.model_type == "SCLIP":
            return attend(q, q, v) + attend(k, k, v)
        return attend(q, q, v)

    def run(self, tokens: Tensor, blocks: Sequence[Block], context: Context) -> Tensor:
        """Sum the outputs of all handed-over blocks, each computed from the stream of CLIP, which runs on unchanged."""
        total = torch.zeros_like(tokens)
        for index, block in enumerate(blocks, start=1):
            total = total + self.run_block(tokens, block, context)
            if index < len(blocks):
                tokens = block(tokens)
        return total
