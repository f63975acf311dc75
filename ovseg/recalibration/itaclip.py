"""ITACLIP: the attention of the last block, mixed half and half with that of middle blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ovseg.clip.features import Context, Kept
from ovseg.clip.tokens import Block
from ovseg.errors import ConfigError
from ovseg.recalibration.base import RECALIBRATION_REGISTRY, Recalibration, attend, layer_index


@dataclass(frozen=True)
class Middle(Kept):
    """Queries and keys (B, heads, N, d) of the middle blocks."""

    pairs: list[tuple[Tensor, Tensor]]

    def rows(self, rows: slice) -> Middle:
        """Return what is kept of some of the images."""
        return Middle([(query[rows], key[rows]) for query, key in self.pairs])


@RECALIBRATION_REGISTRY.register()
class ITACLIP(Recalibration):
    """Architecture of ITACLIP (Aydin et al., CVPR Workshops 2025; github.com/m-arda-aydn/ITACLIP).

    Its other parts are settings: the views of the image are ``PROTOCOL.IMAGE_ENGINEERING``, the closing of the labels
    is ``PROTOCOL.CLOSING``, and texts are mixed by the vocabulary.
    """

    feed_forward = False

    def __init__(
        self, *, mid_layers: tuple[float, ...] = (7 / 12, 8 / 12, 10 / 12), attn_self: bool = True, **common: Any
    ) -> None:
        """Choose the maps that are mixed.

        Args:
            mid_layers: Blocks whose attention on their own input makes up one half, as shares of the depth (the default
                is the seventh, eighth and tenth of twelve) or as Python indices. Those that fall on one block count
                once. The blocks themselves run as they are.
            attn_self: Query-query plus key-key attention (rows sum to 2) in all maps, or CLIP's own query-key.
            common: Options of `Recalibration`.

        Raises:
            ConfigError: There is no middle layer.
        """
        super().__init__(**common)
        if not mid_layers:
            raise ConfigError("mid_layers is empty; expected one block or more, such as 0.5 for the middle")
        self.mid_layers, self.attn_self = tuple(mid_layers), attn_self

    def middle(self, depth: int) -> list[int]:
        """Return the indices of the middle blocks of a CLIP of ``depth`` blocks, first to last.

        Raises:
            ConfigError: One is not there, or is the last.
        """
        found = sorted({layer_index(layer, depth) for layer in self.mid_layers})
        if found[-1] == depth - 1:
            named = ", ".join(f"{layer:.3g}" for layer in self.mid_layers)
            raise ConfigError(f"mid_layers {named} name the last of {depth} blocks; expected earlier blocks only")
        return found

    def blocks_of(self, depth: int) -> int:
        """Take over from the first middle block on, to see the queries and keys that it computes anyway."""
        return depth - self.middle(depth)[0]

    def run(self, tokens: Tensor, blocks: Sequence[Block], context: Context) -> Tensor:
        """Run the blocks as they are, with an eye on the middle ones, and change the last."""
        depth, seen = context.tower.depth, Middle([])
        middle = self.middle(depth)
        for index, block in enumerate(blocks[:-1], start=depth - len(blocks)):
            q, k, v = block.qkv(tokens)
            if index in middle:
                seen.pairs.append((q, k))
            tokens = tokens + block.project(attend(q, k, v))
            tokens = tokens + block.feed_forward(tokens)
        context.keep(seen)
        return self.run_block(tokens, blocks[-1], context)

    def attention(self, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
        """Mix values by half of this block's map and half of the mean of the middle maps, head by head.

        Mixing is linear in the maps, so each mixes the values by itself and none of (N, N) is ever stored.
        """
        middle = torch.stack([self.own(query, key, v) for query, key in context.kept(Middle).pairs]).mean(0)
        return (self.own(q, k, v) + middle) / 2

    def own(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Mix values by the map of one block alone."""
        return attend(q, q, v) + attend(k, k, v) if self.attn_self else attend(q, k, v)
