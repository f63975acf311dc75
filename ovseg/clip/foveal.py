"""The class token of CLIP looking at many regions of one image, by a bias on its own row of attention."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg.clip.open_clip_internals import Block

_COPIES = 64  # of an image that run at a time


def class_tokens(tokens: Tensor, blocks: Sequence[Block], bias: Tensor) -> Tensor:
    """Run the last blocks once per region and return the class tokens.

    In the first of them the patches are still those of all regions, and of the last one only the class token is of use;
    so only the blocks between run in full for every region.

    Args:
        tokens: (B, 1 + h * w, C) that enter the first of the blocks.
        blocks: The last blocks of CLIP, at least one.
        bias: (R, h, w) of the regions, added to the scores of the class token and the patches, in all heads.

    Returns:
        Class tokens (B, R, C) that leave the last block.
    """
    rows = F.pad(bias.flatten(1), (1, 0)).to(tokens)
    parts = rows.split(max(1, _COPIES // len(tokens)))
    return torch.cat([_regions(tokens, blocks, part) for part in parts], dim=1)


def _regions(tokens: Tensor, blocks: Sequence[Block], rows: Tensor) -> Tensor:
    """Return the class tokens (B, R, C) of a few regions, given their rows (R, N) of bias."""
    batch, count = len(tokens), len(rows)
    if len(blocks) == 1:
        return run_biased(tokens, blocks[0], rows, only_class=True)
    both = run_biased(tokens, blocks[0], rows)
    patches = both[:, None, count:].expand(-1, count, -1, -1)
    copies = torch.cat([both[:, :count, None], patches], dim=2).flatten(0, 1)  # (B * R, N, C)
    own = rows.repeat(batch, 1)[:, None, None]
    for block in blocks[1:-1]:
        copies = run_biased(copies, block, own)
    return run_biased(copies, blocks[-1], own, only_class=True).view(batch, count, -1)


def run_biased(tokens: Tensor, block: Block, rows: Tensor, only_class: bool = False) -> Tensor:
    """Run a block with a bias on the class token's row of attention, for one or several such rows at once.

    Args:
        tokens: (B, 1 + h * w, C).
        block: Of CLIP.
        rows: Biases that broadcast to (B, heads, R, 1 + h * w); each gives a class token of its own.
        only_class: Whether the patches are left out.

    Returns:
        Tokens (B, R + h * w, C): the class tokens, then the patches, which look at all as ever.
    """
    query, key, value = block.qkv(tokens)
    count = rows.shape[-2]
    first = query[:, :, :1].expand(-1, -1, count, -1)
    mixed = F.scaled_dot_product_attention(first, key, value, attn_mask=rows)
    stream = tokens[:, :1].expand(-1, count, -1)
    if not only_class:
        patches = F.scaled_dot_product_attention(query[:, :, 1:], key, value)
        mixed, stream = torch.cat([mixed, patches], dim=2), torch.cat([stream, tokens[:, 1:]], dim=1)
    stream = stream + block.project(mixed)
    return stream + block.feed_forward(stream)
