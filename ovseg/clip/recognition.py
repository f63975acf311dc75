"""CLIP in two parts, with tokens of a side network between them, as SAN has it.

The front blocks run as they are, and their tokens are tapped on the way. In the last blocks ("tail") Q extra tokens,
one for each proposed mask, start as copies of the class token and gather what attention biases show them.

The original keeps them in one sequence with the class token and the patches, under a mask of -100 that hides them from
all others and the class token from them. So patches never depend on them, and here patches and class token run once as
ever, while each extra token attends to itself and to the patches: the same result without the (Q + N)^2 attention.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg.clip.open_clip_internals import Block, VisualTower
from ovseg.errors import ConfigError

POOLINGS = ("max", "avg", "bilinear", "bicubic")
"""How biases come to the grid of the patches."""


@dataclass(frozen=True)
class Front:
    """What the front blocks give.

    Attributes:
        tokens: (B, 1 + h * w, C) that leave the last of them, class token first.
        grid: Patch rows and columns (h, w).
        taps: Patch tokens (B, C, h, w) by number of blocks behind them; 0 is what enters the first block.
    """

    tokens: Tensor
    grid: tuple[int, int]
    taps: dict[int, Tensor]


def run_front(
    tower: VisualTower, images: Tensor, blocks: int, taps: Iterable[int] = (), table: Tensor | None = None
) -> Front:
    """Run the first blocks of CLIP.

    Args:
        tower: The image tower.
        images: Normalised (B, 3, H, W); sides are floored to patches.
        blocks: How many.
        taps: Which tokens to keep.
        table: Position embeddings (1 + g_h * g_w, C) in the place of CLIP's own, which SAN trains.
    """
    tokens, grid = tower.embed(images, "bicubic_by_grid", table)
    wanted, kept = set(taps), {}
    for index in range(blocks + 1):
        if index:
            tokens = tower.blocks[index - 1](tokens)
        if index in wanted:
            kept[index] = tokens[:, 1:].mT.unflatten(2, grid)
    return Front(tokens, grid, kept)


def run_tail(tokens: Tensor, blocks: Sequence[Block], biases: Sequence[Tensor], starts: Tensor) -> Tensor:
    """Lead tokens of their own through the last blocks of CLIP, one for each mask.

    Args:
        tokens: (B, 1 + N, C) that enter the first of the blocks, class token first.
        blocks: The last blocks of CLIP.
        biases: One for each block, or one for all: (B, heads or 1, Q, N), added to the scores of the patches.
        starts: Extra tokens (B, Q, C) that enter the first of the blocks.

    Returns:
        Extra tokens (B, Q, C) that leave the last block.

    Raises:
        ConfigError: There are neither one bias nor as many as blocks.
    """
    if len(biases) not in (1, len(blocks)):
        raise ConfigError(f"got {len(biases)} attention biases for {len(blocks)} blocks; expected 1 or {len(blocks)}")
    for index, block in enumerate(blocks):
        query, key, value = block.qkv(tokens)
        own = block.qkv(starts)
        led = _attend(own, key[:, :, 1:], value[:, :, 1:], biases[index % len(biases)], block.scale)
        starts = starts + block.project(led)
        starts = starts + block.feed_forward(starts)
        if index + 1 < len(blocks):  # of the last block, patches are of no use
            tokens = tokens + block.project(F.scaled_dot_product_attention(query, key, value))
            tokens = tokens + block.feed_forward(tokens)
    return starts


def pool_bias(bias: Tensor, grid: tuple[int, int], pooling: str = "max") -> Tensor:
    """Bring attention biases (B, heads, Q, a, b) to a patch grid: (B, heads, Q, h * w); windows may be uneven.

    Raises:
        ConfigError: There is no such pooling.
    """
    maps = bias.flatten(0, 1)
    if pooling == "max":
        found = F.adaptive_max_pool2d(maps, grid)
    elif pooling == "avg":
        found = F.adaptive_avg_pool2d(maps, grid)
    elif pooling in POOLINGS:
        found = F.interpolate(maps, grid, mode=pooling, align_corners=False)
    else:
        raise ConfigError(f"pooling of attention biases is '{pooling}'; expected one of {', '.join(POOLINGS)}")
    return found.unflatten(0, bias.shape[:2]).flatten(3)


def _attend(own: tuple[Tensor, Tensor, Tensor], key: Tensor, value: Tensor, bias: Tensor, scale: float) -> Tensor:
    """Let each extra token attend to the patches and to itself, never to one another.

    Args:
        own: Queries, keys and values (B, heads, Q, d) of the extra tokens.
        key: (B, heads, N, d) of the patches.
        value: As the keys.
        bias: (B, heads or 1, Q, N).
        scale: Of the scores.

    Returns:
        (B, heads, Q, d).
    """
    query, own_key, own_value = own
    itself = (query * own_key).sum(-1, keepdim=True) * scale
    scores = torch.cat([query @ key.mT * scale + bias, itself], dim=-1)
    weights = scores.softmax(-1).to(value.dtype)
    return weights[..., :-1] @ value + weights[..., -1:] * own_value
