"""CLIP's image embedding as the sum of what each layer, head and patch wrote into the class token.

The class token that leaves the last block is the sum of what entered the first one and of all that the blocks added to
it. The attention of a block adds, for every head and every source token, a weighted value vector. The last norm and the
projection are linear once the norm's mean and deviation are known, so every term has a place in the joint space of
image and text (Gandelsman et al., ICLR 2024, arXiv 2310.05916).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ovseg.clip.features import Kept
from ovseg.clip.tokens import CLASS_EMBEDDING, HEADS_ADD, Block, TokenTower
from ovseg.errors import ConfigError


@dataclass(frozen=True)
class Decomposition:
    """Direct contributions to image embeddings, float32.

    All are divided by the length of the embedding, so that ``tokens.sum(1) + mlps.sum(1)`` is the unit embedding.

    Attributes:
        embedding: The embedding (B, D) itself, not of unit length.
        tokens: Of attention (B, N, D) by source token, all tokens in their order, over all layers and heads.
        heads: Of attention (B, L, H, D) by layer and head, over all source tokens.
        mlps: (B, 1 + L, D): what entered the first block, then the feed-forward half of each block.
        layers: Of attention (B, N, H, D) by source token and head, of the layers that were asked for.
    """

    embedding: Tensor
    tokens: Tensor
    heads: Tensor
    mlps: Tensor
    layers: dict[int, Tensor]


@dataclass
class ClassTokenLedger(Kept):
    """Books what blocks write into the class token while the tokens pass through them unchanged.

    Only the class token's row of attention is kept, never (N, N) weights of all heads.

    Args:
        tower: With `CLASS_EMBEDDING` and `HEADS_ADD`.
        start: Tokens (B, N, C) that enter the first block.
        keep: Indices of the layers whose attention is kept by token and head: B * N * C * H numbers each.
    """

    tower: TokenTower
    start: Tensor
    keep: Sequence[int] = ()
    tokens: Tensor = field(init=False)
    heads: list[Tensor] = field(init=False, default_factory=list)
    mlps: list[Tensor] = field(init=False, default_factory=list)
    layers: dict[int, Tensor] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.tokens = torch.zeros_like(self.start, dtype=torch.float32)
        self.mlps.append(self._class_token(self.start).float())

    def run_block(self, tokens: Tensor, block: Block) -> Tensor:
        """Return the tokens (B, N, C) that leave a block, exactly as CLIP has them, and book what it wrote."""
        query, key, value = block.qkv(tokens)
        weights = (self.tower.class_and_rest(query)[0].float() @ key.mT.float() * block.scale).softmax(-1)
        row = (weights.mT * value).to(value.dtype)  # (B, H, N, d)
        bias = block.project(value.new_zeros(*value.shape[:2], 1, value.shape[3])).float()
        self.tokens += block.project(row).float() - bias * (1 - 1 / row.shape[2])
        self.heads.append(_by_head(block, row.sum(2, keepdim=True), bias)[:, 0])
        if len(self.mlps) - 1 in self.keep:
            self.layers[len(self.mlps) - 1] = _by_head(block, row, bias)
        tokens = tokens + block.project(torch.nn.functional.scaled_dot_product_attention(query, key, value))
        written = block.feed_forward(tokens)
        self.mlps.append(self._class_token(written).float())
        return tokens + written

    def close(self, tokens: Tensor) -> Decomposition:
        """Carry all that was booked into the joint space, given the tokens (B, N, C) that left the last block."""
        final, (norm, projection, bias) = self._class_token(tokens), self.tower.linear_head()
        embedding = self.tower.patches_to_joint(final).float()
        length = embedding.norm(dim=-1)
        variance, mean = torch.var_mean(final.float(), dim=-1, correction=0)
        matrix = norm.weight.float()[:, None] * projection.float()
        offset = norm.bias.float() @ projection.float() + bias.float()
        divisor = (variance + norm.eps).sqrt() * length

        def carry(terms: Tensor, share: float) -> Tensor:
            """Bring terms (B, ..., C) to the joint space, each with its share of the norm's mean and of all biases."""
            mu, scale, norms = (x.view(-1, *[1] * (terms.ndim - 1)) for x in (mean, divisor, length))
            return (terms - share * mu) @ matrix / scale + share * offset / norms

        layers, (heads, count) = len(self.heads), (self.heads[0].shape[1], tokens.shape[1])
        entries = 2 * layers + 1
        return Decomposition(
            embedding=embedding,
            tokens=carry(self.tokens, layers / (entries * count)),
            heads=carry(torch.stack(self.heads, 1), 1 / (entries * heads)),
            mlps=carry(torch.stack(self.mlps, 1), 1 / entries),
            layers={index: carry(kept, 1 / (entries * count * heads)) for index, kept in self.layers.items()},
        )

    def _class_token(self, tokens: Tensor) -> Tensor:
        return self.tower.class_and_rest(tokens)[0].squeeze(1)


@torch.no_grad()
def decompose(
    clip: TokenTower, images: Tensor, layers: Sequence[int] = (), pos_resize: str = "bicubic_offset"
) -> Decomposition:
    """Decompose the embeddings of normalised images (B, 3, H, W), in one pass.

    Args:
        clip: Whose embedding is that of the class token.
        images: Of any size of at least one patch.
        layers: Indices from 0 of the layers whose attention is also wanted by token and head.
        pos_resize: Rule by which position embeddings are resized.

    Raises:
        ConfigError: The CLIP's embedding is not a sum of such terms, or there is no such layer.
    """
    clip.check({CLASS_EMBEDDING, HEADS_ADD}, "the decomposition of embeddings")
    if wrong := [layer for layer in layers if not 0 <= layer < clip.depth]:
        raise ConfigError(f"layer {wrong[0]} cannot be kept; expected 0 to {clip.depth - 1}")
    tokens, grid = clip.embed(images, pos_resize)
    ledger = ClassTokenLedger(clip, tokens, layers)
    for block in clip.blocks_on(grid):
        tokens = ledger.run_block(tokens, block)
    return ledger.close(tokens)


def _by_head(block: Block, row: Tensor, bias: Tensor) -> Tensor:
    """Return what each head alone writes (B, M, H, C) of its values (B, H, M, d), the bias spread over all of them."""
    heads, count = row.shape[1:3]
    alone = torch.zeros_like(row[:, :, :, None].expand(-1, -1, -1, heads, -1))
    index = torch.arange(heads, device=row.device)
    alone[:, index, :, index] = row.transpose(0, 1)
    written = block.project(alone.flatten(2, 3)).float().unflatten(1, (count, heads))
    return written - bias[:, None] * (1 - 1 / (count * heads))
