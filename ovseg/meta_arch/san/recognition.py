"""CLIP in two parts, with tokens of a side network between them, as SAN has it.

The front blocks run as they are. In the last blocks ("tail") Q extra tokens, one for each proposed mask, start as
copies of the class token and gather what attention biases show them. Patches are tapped on the way for the side
network.

The original keeps them in one sequence with the class token and the patches, under a mask of -100 that hides them from
all others and the class token from them. So patches never depend on them, and here patches and class token run once as
ever, to the depth of the last tap, and leave their keys and values to the extra tokens: the same result without the
(Q + N)^2 attention.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg.clip.tokens import Block
from ovseg.clip.tower import Tower
from ovseg.errors import ConfigError
from ovseg.ops.any_size import max_pool, mean_pool

POOLINGS = ("max", "avg", "bilinear", "bicubic")
"""How biases come to the grid of the patches."""


@dataclass(frozen=True)
class Patches:
    """What patches and class token give on their way through CLIP.

    Attributes:
        tokens: All tokens (B, P + N, C) that enter the tail.
        taps: All tokens (B, P + N, C) by number of blocks behind them; 0 is what enters the first block.
        seen: For each block of the tail, keys and values (B, heads, N, d) of the patches.
    """

    tokens: Tensor
    taps: dict[int, Tensor]
    seen: list[tuple[Tensor, Tensor]]


def run_patches(tower: Tower, tokens: Tensor, blocks: Sequence[Block], front: int, taps: Iterable[int] = ()) -> Patches:
    """Run patches and class token through CLIP as ever; behind the last tap, only as far as the tail needs.

    Args:
        tower: Says which tokens are patches.
        tokens: (B, P + N, C) that enter the first block.
        blocks: All its blocks.
        front: How many of them are not of the tail.
        taps: Which tokens to keep.
    """
    wanted = set(taps)
    states = {0: tokens} if 0 in wanted else {}
    entering, seen = tokens, []
    for depth, block in enumerate(blocks, 1):
        query, key, value = block.qkv(tokens)
        if depth > front:
            seen.append((tower.split(key)[1], tower.split(value)[1]))
        if depth == len(blocks) and depth not in wanted:
            break
        tokens = tokens + block.project(F.scaled_dot_product_attention(query, key, value))
        tokens = tokens + block.feed_forward(tokens)
        if depth == front:
            entering = tokens
        if depth in wanted:
            states[depth] = tokens
    return Patches(entering, states, seen)


def run_tail(
    starts: Tensor, blocks: Sequence[Block], seen: Sequence[tuple[Tensor, Tensor]], biases: Sequence[Tensor]
) -> Tensor:
    """Lead tokens of their own through the last blocks of CLIP, one for each mask.

    Args:
        starts: Extra tokens (B, Q, C) that enter the first of the blocks.
        blocks: The last blocks of CLIP.
        seen: For each block, keys and values (B, heads, N, d) of the patches.
        biases: One for each block, or one for all: (B, heads or 1, Q, N), added to the scores of the patches.

    Returns:
        Extra tokens (B, Q, C) that leave the last block.

    Raises:
        ConfigError: There are neither one bias nor as many as blocks.
    """
    if len(biases) not in (1, len(blocks)):
        raise ConfigError(f"got {len(biases)} attention biases for {len(blocks)} blocks; expected 1 or {len(blocks)}")
    for index, (block, (key, value)) in enumerate(zip(blocks, seen, strict=True)):
        led = _attend(block.placeless.qkv(starts), key, value, biases[index % len(biases)], block.scale)
        starts = starts + block.project(led)
        starts = starts + block.feed_forward(starts)
    return starts


def pool_bias(bias: Tensor, grid: tuple[int, int], pooling: str = "max") -> Tensor:
    """Bring attention biases (B, heads, Q, a, b) to a patch grid: (B, heads, Q, h * w); windows may be uneven.

    Raises:
        ConfigError: There is no such pooling.
    """
    maps = bias.flatten(0, 1)
    if pooling in ("max", "avg") and any(isinstance(side, torch.SymInt) for side in grid):
        found = (max_pool if pooling == "max" else mean_pool)(maps, grid)  # a graph for all sizes
    elif pooling == "max":
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
