"""The masked-attention decoder of Mask2Former with the mask-pooled class embeddings of FC-CLIP."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovseg.ops.mask_pooling import mask_pool
from ovseg.proposals.attention import MLP, Attention
from ovseg.proposals.sine_position import sine_position

LEVELS = 3


class Proposals(NamedTuple):
    """What a head says of every query.

    Attributes:
        embeddings: (B, Q, D), to be compared with texts; of any length.
        masks: Mask logits (B, Q, H/4, W/4).
    """

    embeddings: Tensor
    masks: Tensor


class DecoderLayer(nn.Module):
    """Masked cross-attention, self-attention, feed-forward; each with a residual and then a norm."""

    def __init__(self, dim: int, heads: int, ffn: int) -> None:
        """Build it; ``ffn`` is the width of the feed-forward network."""
        super().__init__()
        self.cross, self.cross_norm = Attention(dim, heads), nn.LayerNorm(dim)
        self.own, self.own_norm = Attention(dim, heads), nn.LayerNorm(dim)
        self.linear1, self.linear2, self.norm = nn.Linear(dim, ffn), nn.Linear(ffn, dim), nn.LayerNorm(dim)
        nn.init.xavier_uniform_(self.linear1.weight)
        nn.init.xavier_uniform_(self.linear2.weight)

    def forward(self, x: Tensor, place: Tensor, key: Tensor, value: Tensor, allowed: Tensor) -> Tensor:
        """Update queries.

        Args:
            x: (B, Q, C).
            place: (Q, C), added where queries and keys are compared.
            key: Pixels of a level (B, N, C) with their positions.
            value: The same without positions.
            allowed: Bool (B, Q, N), which pixels a query may look at.
        """
        x = self.cross_norm(x + self.cross(x + place, key, value, allowed))
        x = self.own_norm(x + self.own(x + place, x + place, x))
        return self.norm(x + self.linear2(self.linear1(x).relu_()))


class MaskedDecoder(nn.Module):
    """Queries that look at the pixels of their own masks, layer after layer; they know no words.

    Cheng et al., Mask2Former, CVPR 2022; class embeddings as Yu et al., "Convolutions Die Hard: Open-Vocabulary
    Segmentation with Single Frozen Convolutional CLIP", NeurIPS 2023 (github.com/bytedance/fc-clip).

    Attributes:
        log_scale: Logarithm of the factor between cosines and class logits, learned; see `class_scale`.
    """

    def __init__(
        self,
        embed_dim: int,
        *,
        dim: int = 256,
        mask_dim: int = 0,
        queries: int = 250,
        heads: int = 8,
        decoder_ffn: int = 2048,
        decoder_layers: int = 9,
    ) -> None:
        """Build it.

        Args:
            embed_dim: Length of class embeddings: that of the texts.
            dim: Width of the levels, those of the pixel decoder.
            mask_dim: Width of queries and mask features, to which levels of another are projected; 0 is ``dim``.
            queries: Their number.
            heads: Of every attention.
            decoder_ffn: Width of the feed-forward networks.
            decoder_layers: Number of layers.
        """
        super().__init__()
        width = mask_dim or dim
        projections = LEVELS if width != dim else 0  # as the original: no parameters where there is nothing to change
        self.input_proj = nn.ModuleList(nn.Conv2d(dim, width, 1) for _ in range(projections))
        for parameter in self.input_proj.parameters():
            nn.init.zeros_(parameter) if parameter.ndim == 1 else nn.init.kaiming_uniform_(parameter, a=1)
        # Tables and not plain parameters, because optimisers commonly spare embeddings the weight decay.
        self.query_feat, self.query_embed = nn.Embedding(queries, width), nn.Embedding(queries, width)
        self.level_embed = nn.Embedding(LEVELS, width)
        self.layers = nn.ModuleList(DecoderLayer(width, heads, decoder_ffn) for _ in range(decoder_layers))
        self.decoder_norm = nn.LayerNorm(width)
        self.mask_embed, self.class_embed = MLP(width, width), MLP(width, embed_dim)
        self.pool_proj = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width))
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, levels: Sequence[Tensor], mask_features: Tensor, every: bool = False) -> list[Proposals]:
        """Decode.

        Args:
            levels: Three levels (B, dim, h, w), taken in turn by the layers.
            mask_features: (B, mask_dim, H/4, W/4), whose products with queries are masks.
            every: Whether to predict before the first and after every layer, as training needs it; else only at last.

        Returns:
            The predictions, the final one last.
        """
        dtype = self.query_feat.weight.dtype
        features, values, keys, small = mask_features.to(dtype), [], [], []
        levels = [level.to(dtype) for level in levels]
        if self.input_proj:
            levels = [project(level) for project, level in zip(self.input_proj, levels, strict=True)]
        for level, embed in zip(levels, self.level_embed.weight, strict=True):
            size = (level.shape[2], level.shape[3])
            place = sine_position(size, level.shape[1], level.device).to(dtype)
            values.append((level + embed[:, None, None]).flatten(2).mT)
            keys.append(values[-1] + place.flatten(1).mT)
            # Masks at the size of a level decide where to look. Resizing is linear, so it is done to the features,
            # once, instead of to the masks of all queries in every layer.
            small.append(F.interpolate(features.detach(), size, mode="bilinear", align_corners=False).flatten(2))
        x = self.query_feat.weight.expand(len(features), -1, -1)
        found = [self.predict(x, features)] if every or not self.layers else []
        for index, layer in enumerate(self.layers):
            turn = index % LEVELS
            x = layer(x, self.query_embed.weight, keys[turn], values[turn], self.allowed(x, small[turn]))
            if every or index == len(self.layers) - 1:
                found.append(self.predict(x, features))
        return found

    def predict(self, x: Tensor, mask_features: Tensor) -> Proposals:
        """Return class embeddings and masks of queries (B, Q, C) on mask features (B, C, h, w)."""
        normed = self.decoder_norm(x)
        masks = torch.einsum("bqc,bchw->bqhw", self.mask_embed(normed), mask_features)
        pooled = mask_pool(mask_features, masks)
        return Proposals(self.class_embed(self.pool_proj(pooled) + normed), masks)

    @torch.no_grad()
    def allowed(self, x: Tensor, pixels: Tensor) -> Tensor:
        """Return which pixels (B, Q, N) lie inside the masks of queries (B, Q, C); all where none does.

        Args:
            x: (B, Q, C).
            pixels: Mask features (B, C, N) at the size of a level.
        """
        inside = self.mask_embed(self.decoder_norm(x)) @ pixels >= 0
        return inside | ~inside.any(-1, keepdim=True)
