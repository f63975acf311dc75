"""The class token of CLIP looking at many regions of one image, by a bias on its own row of attention."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg.clip.tokens import Block, TokenTower

_COPIES = 64  # of an image that run at a time


def class_tokens(tower: TokenTower, tokens: Tensor, blocks: Sequence[Block], bias: Tensor) -> Tensor:
    """Run the last blocks once per region and return the class tokens.

    In the first of them the patches are still those of all regions, and of the last one only the class token is of use;
    so only the blocks between run in full for every region.

    Args:
        tower: Says where the class token lies.
        tokens: (B, N, C) that enter the first of the blocks.
        blocks: The last blocks of CLIP, at least one.
        bias: (R, h, w) of the regions, added to the scores of the class token and the patches, in all heads.

    Returns:
        Class tokens (B, R, C) that leave the last block.
    """
    rows = F.pad(bias.flatten(1), (tower.prefix, 0)).to(tokens)
    parts = rows.split(max(1, _COPIES // len(tokens)))
    return torch.cat([_regions(tower, tokens, blocks, part) for part in parts], dim=1)


def _regions(tower: TokenTower, tokens: Tensor, blocks: Sequence[Block], rows: Tensor) -> Tensor:
    """Return the class tokens (B, R, C) of a few regions, given their rows (R, N) of bias."""
    batch, count = len(tokens), len(rows)
    if len(blocks) == 1:
        return run_biased(tower, tokens, blocks[0], rows, only_class=True)
    both = run_biased(tower, tokens, blocks[0], rows)
    rest = both[:, None, count:].expand(-1, count, -1, -1)
    copies = torch.cat([both[:, :count, None], rest], dim=2).flatten(0, 1)  # (B * R, N, C)
    own = rows.repeat(batch, 1)[:, None, None]
    for block in blocks[1:-1]:
        copies = run_biased(tower, copies, block, own)
    return run_biased(tower, copies, blocks[-1], own, only_class=True).view(batch, count, -1)


def run_biased(tower: TokenTower, tokens: Tensor, block: Block, rows: Tensor, only_class: bool = False) -> Tensor:
    """Run a block with a bias on the class token's row of attention, for one or several such rows at once.

    Args:
        tower: Says where the class token lies.
        tokens: (B, N, C).
        block: Of the tower.
        rows: Biases that broadcast to (B, heads, R, N); each gives a class token of its own.
        only_class: Whether all other tokens are left out.

    Returns:
        Tokens (B, R + N - 1, C): the class tokens, then the others, which look at all as ever.
    """
    query, key, value = block.qkv(tokens)
    count = rows.shape[-2]
    (own, others), (cls, rest) = tower.class_and_rest(query), tower.class_and_rest(tokens)
    mixed = F.scaled_dot_product_attention(own.expand(-1, -1, count, -1), key, value, attn_mask=rows)
    stream = cls.expand(-1, count, -1)
    if not only_class:
        mixed = torch.cat([mixed, F.scaled_dot_product_attention(others, key, value)], dim=2)
        stream = torch.cat([stream, rest], dim=1)
    stream = stream + block.project(mixed)
    return stream + block.feed_forward(stream)
