"""Tokens of regions, as CorrCLIP has them: copies of the class token that see one region each."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from ovseg.clip.tokens import Block
from ovseg.guides.mixing import cross_block


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
