"""GEM: a second stream of generalised self-self attention beside the last blocks of CLIP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg.clip.features import Context
from ovseg.clip.tokens import Block
from ovseg.errors import at_least
from ovseg.recalibration.base import RECALIBRATION_REGISTRY, Recalibration


@RECALIBRATION_REGISTRY.register()
class GEM(Recalibration):
    """Grounding Everything Module (Bousselham et al., CVPR 2024; github.com/WalBouss/GEM)."""

    residual, feed_forward = True, False
    attention_only = False  # six products of attention per block of the second stream, where CLIP has two
    pos_resize = "bicubic_antialias"

    def __init__(self, *, depth: int = 7, iterations: int = 1, temperature: float | None = None, **common: Any) -> None:
        """Set the depth and sharpness.

        Args:
            depth: As the original counts: ``depth - 1`` of the last blocks are changed.
            iterations: How often queries, keys and values are regrouped before they attend.
            temperature: Inverse temperature of all softmaxes; None takes the mean norm of the tokens, per image.
            common: Options of `Recalibration`; without the residual only the last block's attention survives.
        """
        super().__init__(**common)
        self.blocks = at_least("depth", depth, 2) - 1
        self.iterations = at_least("iterations", iterations, 0)
        self.temperature = temperature if temperature is None else at_least("temperature", temperature, 0.0)

    def run(self, tokens: Tensor, blocks: Sequence[Block], context: Context) -> Tensor:
        """Accumulate self-self attention of CLIP's own stream in a second stream, which it never sees."""
        stream = tokens
        for index, block in enumerate(blocks, start=1):
            attended = block.project(self._self_self(tokens, block))
            stream = stream + attended if self.residual else attended
            if self.feed_forward:
                stream = stream + block.feed_forward(stream)
            if index < len(blocks):
                tokens = block(tokens)
        return stream

    def _self_self(self, tokens: Tensor, block: Block) -> Tensor:
        query, key, value = block.qkv(tokens)
        sharpness, mixed = self.sharpness(tokens, block), torch.zeros_like(value)
        for z in (value, key, query):
            z = self.regroup(z, sharpness)
            mixed = mixed + _attend(z, sharpness, value)
        return mixed / 3

    def sharpness(self, tokens: Tensor, block: Block) -> Tensor | float:
        """Return the inverse temperature, (B, 1, 1, 1) where it is taken from the normed tokens (B, N, C)."""
        if self.temperature is not None:
            return self.temperature
        return block.norm(tokens).norm(dim=-1).mean(1)[:, None, None, None] * block.scale

    def regroup(self, z: Tensor, sharpness: Tensor | float) -> Tensor:
        """Return unit vectors (B, heads, N, d) that attended to each other as often as set."""
        for _ in range(self.iterations):
            z = F.normalize(z, dim=-1)
            z = _attend(z, sharpness, z)
        return F.normalize(z, dim=-1)


def _attend(z: Tensor, sharpness: Tensor | float, value: Tensor) -> Tensor:
    """Return ``softmax(sharpness z z^T) value``."""
    return F.scaled_dot_product_attention(sharpness * z, z, value, scale=1.0)
