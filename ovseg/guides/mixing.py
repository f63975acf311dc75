"""What methods do by the features of a guide: blocks that run by other weights, or on other keys and values."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg.clip.features import Kept
from ovseg.clip.tokens import Block


@dataclass(frozen=True)
class GuideGrid(Kept):
    """Rows and columns of the guide's grid, on which the patches lie from the last block on."""

    size: tuple[int, int]


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


def cross_block(tokens: Tensor, block: Block, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Run tokens (B, R, C) through a block in which they attend to the keys and values of others.

    Args:
        tokens: Of no place, for example copies of the class token.
        block: As CLIP has it, residual and feed-forward included.
        key: (B, heads, N, d).
        value: (B, heads, N, d).
        mask: (B, 1, R, N), true where a token may look; None lets all look everywhere.
    """
    mixed = F.scaled_dot_product_attention(block.placeless.qkv(tokens)[0], key, value, attn_mask=mask)
    tokens = tokens + block.project(mixed)
    return tokens + block.feed_forward(tokens)
