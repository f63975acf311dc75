"""What methods do with the features of a guide: weights from them, and blocks that run by other weights or masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg.clip.features import Kept
from ovseg.clip.tokens import Block
from ovseg.guides.base import unit_patches


@dataclass(frozen=True)
class GuideGrid(Kept):
    """Rows and columns of the guide's grid, on which the patches lie from the last block on."""

    size: tuple[int, int]


def proxy_weights(features: Tensor, beta: float = 1.2, gamma: float = 3.0, batch_mean: bool = False) -> Tensor:
    """Return the attention of ProxyCLIP: the softmax of cosines, of those only that stand out (arXiv 2408.04883).

    Args:
        features: Of a guide, (B, C, h, w).
        beta: Pairs below ``beta`` times the mean cosine are dropped. A position never drops itself, else nearly uniform
            features would leave some rows without any weight.
        gamma: Inverse temperature.
        batch_mean: Whether the mean is that of all images, as in the original, or each image's own.

    Returns:
        Weights (B, h * w, h * w) in float32; the rows sum to 1.
    """
    unit = unit_patches(features)
    cosines = unit @ unit.mT
    mean = cosines.mean() if batch_mean else cosines.mean((1, 2), keepdim=True)
    return masked_softmax(gamma * cosines, cosines >= beta * mean)


def masked_softmax(scores: Tensor, keep: Tensor) -> Tensor:
    """Return the softmax over the pairs (B, M, M) to keep; every position keeps itself."""
    itself = torch.eye(scores.shape[-1], dtype=torch.bool, device=scores.device)
    return scores.masked_fill(~(keep | itself), -torch.inf).softmax(-1)


def resize_patches(patches: Tensor, grid: tuple[int, int], target: tuple[int, int]) -> Tensor:
    """Resize the vectors (B, h * w, C) of one grid to another, bilinear: (B, h' * w', C)."""
    if grid == target:
        return patches
    laid_out = patches.mT.unflatten(-1, grid)
    return F.interpolate(laid_out, size=target, mode="bilinear", align_corners=False).flatten(2).mT


def guided_block(
    tokens: Tensor,
    values: Tensor,
    block: Block,
    weights: Tensor,
    grid: tuple[int, int],
    target: tuple[int, int],
    residual: bool = False,
    feed_forward: bool = False,
) -> Tensor:
    """Run a block on the grid of a guide, whose weights take the place of its attention in all heads alike.

    Args:
        tokens: Patches (B, h * w, C) that enter the block; no other token takes part.
        values: Of these patches in the block, (B, heads, h * w, d).
        block: Gives projection and feed-forward.
        weights: (B, h' * w', h' * w').
        grid: Rows and columns of the tokens.
        target: Rows and columns of the guide; values are resized to it.
        residual: Whether to add the tokens, resized alike.
        feed_forward: Whether the feed-forward half runs.

    Returns:
        Tokens (B, h' * w', C) of the patches.
    """
    joined = resize_patches(values.transpose(1, 2).flatten(2), grid, target)
    mixed = (weights.to(joined.dtype) @ joined).unflatten(-1, (block.heads, -1)).transpose(1, 2)
    patches = block.project(mixed)
    if residual:
        patches = patches + resize_patches(tokens, grid, target)
    return patches + block.feed_forward(patches) if feed_forward else patches


def remember(
    tokens: Tensor, blocks: Sequence[Block], hidden: set[int]
) -> tuple[Tensor, dict[int, Tensor], list[tuple[Tensor, Tensor]]]:
    """Run tokens (B, N, C) through all blocks but the last, as CLIP does.

    Returns:
        What enters the last block; what leaves the blocks of these indices; and the keys and values (B, heads, N, d) of
        every block, the last included.
    """
    kept: dict[int, Tensor] = {}
    memory: list[tuple[Tensor, Tensor]] = []
    for index, block in enumerate(blocks[:-1]):
        query, key, value = block.qkv(tokens)
        memory.append((key, value))
        tokens = tokens + block.project(F.scaled_dot_product_attention(query, key, value))
        tokens = tokens + block.feed_forward(tokens)
        if index in hidden:
            kept[index] = tokens
    _, key, value = blocks[-1].qkv(tokens)
    return tokens, kept, [*memory, (key, value)]


def region_tokens(cls: Tensor, ids: Tensor, blocks: Sequence[Block], memory: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Run copies of the class token through all blocks; each sees the patches of one region and all other tokens.

    They run beside the image, whose own tokens do not see them.

    Args:
        cls: The class token (B, 1, C) that enters the first block.
        ids: Region ids (B, h * w) of the patches, from 0 on without gaps.
        blocks: Of CLIP, as they are.
        memory: Keys and values of the image's own tokens in each block, (B, heads, P + h * w, d), patches last.

    Returns:
        Tokens (B, 1 + R, C): the first sees all patches, and so is the class token of CLIP itself; 1 + i sees region i.
    """
    regions = F.one_hot(ids).mT.bool()
    others = memory[0][0].shape[2] - ids.shape[1]
    sees = F.pad(regions, (others, 0, 1, 0), value=True)[:, None]  # (B, 1, 1 + R, P + h * w)
    tokens = cls.expand(-1, sees.shape[2], -1)
    for block, (key, value) in zip(blocks, memory, strict=True):
        tokens = cross_block(tokens, block, key, value, sees)
    return tokens


def cross_block(tokens: Tensor, block: Block, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Run tokens (B, R, C) through a block in which they attend to the keys and values of others.

    Args:
        tokens: For example copies of the class token.
        block: As CLIP has it, residual and feed-forward included.
        key: (B, heads, N, d).
        value: (B, heads, N, d).
        mask: (B, 1, R, N), true where a token may look; None lets all look everywhere.
    """
    mixed = F.scaled_dot_product_attention(block.qkv(tokens)[0], key, value, attn_mask=mask)
    tokens = tokens + block.project(mixed)
    return tokens + block.feed_forward(tokens)
