"""The stream of RF-CLIP: blocks with sinks smoothed behind them, patches that gather their like, the last block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg.clip.features import Context
from ovseg.clip.tokens import Block, TokenTower
from ovseg.errors import ConfigError
from ovseg.recalibration.base import attend
from ovseg.recalibration.rf_clip.sink_tokens import denoise, known_channels, refocused


@dataclass(frozen=True)
class Sinks:
    """How sinks are told and what is done to them; see `ovseg.recalibration.rf_clip.sink_tokens`.

    Attributes:
        channels: In which they stand out; None for those that are known of a tower.
        sigma: How far.
        alpha: Share of the neighbours in a smoothed sink.
        refocus: Whether attention is taken from them.
    """

    channels: tuple[int, ...] | None
    sigma: float
    alpha: float
    refocus: bool

    def on(self, tower: TokenTower) -> Sinks:
        """Return the same with the channels of a tower, none where they are not known.

        Raises:
            ConfigError: The tower has no such channel.
        """
        found = known_channels(tower) if self.channels is None else self.channels
        if found and not 0 <= min(found) <= max(found) < tower.width:
            raise ConfigError(f"sink_channels are {found}; expected channels of {tower.name}, 0 to {tower.width - 1}")
        return replace(self, channels=found)


def through(
    tokens: Tensor,
    blocks: Sequence[Block],
    context: Context,
    sinks: Sinks,
    least: float,
    whole: tuple[bool, bool],
) -> tuple[Tensor, Tensor]:
    """Run all blocks, the last of them on the stream and on the mean of all streams, in which like patches gather.

    Args:
        tokens: Of the first block (B, N, C).
        blocks: All of them.
        context: Of the pass.
        sinks: What to do with them.
        least: See `gather`.
        whole: See `last_block`.

    Returns:
        Patches (B, M, C), and the tokens (B, N, C) as they leave the last block of CLIP.
    """
    entering, mean, before = tokens, torch.zeros_like(tokens), tokens.new_zeros(())
    for block in blocks[:-1]:
        entering, own = layer(entering, block, context, sinks)
        mean, before = mean + entering / len(blocks), before + own
    leaving, _ = layer(entering, blocks[-1], context, replace(sinks, refocus=False))
    mean, tower = mean + leaving / len(blocks), context.tower
    near = likeness(mean, tower)
    both = (gather(one, near, least, tower) for one in (entering, mean))
    found = [last_block(one, blocks[-1], before, len(blocks), tower, whole) for one in both]
    return (found[0] + found[1]) / 2, leaving


def layer(tokens: Tensor, block: Block, context: Context, sinks: Sinks) -> tuple[Tensor, Tensor]:
    """Run a block, and smooth the sinks behind it.

    Args:
        tokens: (B, N, C).
        block: As CLIP has it.
        context: Of the pass.
        sinks: What to do with them.

    Returns:
        Tokens (B, N, C), and the attention (B, heads, M, M) of the keys of patches to each other.
    """
    tower, (query, key, value) = context.tower, block.qkv(tokens)
    if sinks.refocus:
        mixed = refocused((query @ key.mT * block.scale).softmax(-1), tower) @ value
    else:
        mixed = attend(query, key, value)
    tokens = tokens + block.project(mixed)
    tokens = tokens + block.feed_forward(tokens)
    smooth = denoise(tower.split(tokens)[1], context.grid, sinks.channels or (), sinks.sigma, sinks.alpha)
    return torch.cat([tower.leading(tokens), smooth], dim=1), key_pairs(key, block, tower)


def key_pairs(key: Tensor, block: Block, tower: TokenTower) -> Tensor:
    """Return the key-key attention of the patches (B, heads, M, M); rows sum to less than 1, for all tokens compete."""
    return tower.patch_pairs((key @ key.mT * block.scale).softmax(-1))


def likeness(tokens: Tensor, tower: TokenTower) -> Tensor:
    """Return the cosines (B, M, M) of the patches of tokens (B, N, C)."""
    unit = F.normalize(tower.split(tokens)[1], dim=-1)
    return unit @ unit.mT


def gather(tokens: Tensor, cosines: Tensor, least: float, tower: TokenTower) -> Tensor:
    """Let each patch become the sum of all, weighted by those cosines (B, M, M) that are no less than a bound."""
    gathered = cosines.masked_fill(cosines < least, 0).to(tokens.dtype) @ tower.split(tokens)[1]
    return torch.cat([tower.leading(tokens), gathered], dim=1)


def last_block(
    tokens: Tensor, block: Block, before: Tensor, blocks: int, tower: TokenTower, whole: tuple[bool, bool]
) -> Tensor:
    """Run the last block on gathered tokens, by the mean of the key-key pairs of all blocks, its own among them.

    Args:
        tokens: (B, N, C).
        block: The block.
        before: Sum of the pairs (B, heads, M, M) of the blocks before it.
        blocks: Number of all blocks.
        tower: Of the blocks.
        whole: Whether the tokens are added, and whether the feed-forward half runs.

    Returns:
        Patches (B, M, C).
    """
    _, key, value = block.qkv(tokens)
    weights = (before + key_pairs(key, block, tower)) / blocks
    patches = block.project(weights.to(value.dtype) @ tower.split(value)[1])
    patches = patches + tower.split(tokens)[1] if whole[0] else patches
    return patches + block.feed_forward(patches) if whole[1] else patches
