"""GEM: a second stream of generalised self-self attention beside the last blocks of CLIP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg.clip.features import Context
from ovseg.clip.open_clip_internals import Block
from ovseg.recalibration.base import RECALIBRATION_REGISTRY, Recalibration, at_least


@RECALIBRATION_REGISTRY.register()
class GEM(Recalibration):
    """Grounding Everything Module (Bousselham et al., CVPR 2024; github.com/WalBouss/GEM)."""

    residual, feed_forward = True, False
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
        sharpness = self.sharpness(tokens, block)
        groups = (self.group_weights(z, sharpness) @ value for z in (value, key, query))
        return sum(groups, torch.zeros_like(value)) / 3

    def sharpness(self, tokens: Tensor, block: Block) -> Tensor | float:
        """Return the inverse temperature, (B, 1, 1, 1) where it is taken from the normed tokens (B, N, C)."""
        if self.temperature is not None:
            return self.temperature
        return block.norm(tokens).norm(dim=-1).mean(1)[:, None, None, None] * block.scale

    def group_weights(self, z: Tensor, sharpness: Tensor | float) -> Tensor:
        """Return self-self attention weights (B, heads, N, N) of vectors (B, heads, N, d), regrouped first."""
        for _ in range(self.iterations):
            z = F.normalize(z, dim=-1)
            z = (sharpness * z @ z.mT).softmax(-1) @ z
        z = F.normalize(z, dim=-1)
        return (sharpness * z @ z.mT).softmax(-1)
