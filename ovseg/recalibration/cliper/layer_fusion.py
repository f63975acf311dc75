"""Tokens and attention of all blocks together, as CLIPer fuses them (github.com/linsun449/cliper.code)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ovseg.clip.features import Context
from ovseg.clip.tokens import Block

ATTENTIONS = ("fused-attn", "q-q", "k-k", "vanilla", "identity")


def embed_in_half(context: Context, rule: str) -> Tensor:
    """Embed the images of a pass again (B, N, C), the resized position embeddings rounded to float16."""
    return context.tower.embed(context.images, rule, rounding=torch.float16)[0]


def sources(tokens: Tensor, blocks: Sequence[Block], attention: bool) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Run all blocks but the last as they are; then yield for every block what its attention is given.

    Args:
        tokens: (B, N, C) that enter the first block.
        blocks: All blocks, two or more.
        attention: Whether their attention is wanted; then it is computed explicitly, which is slower.

    Yields:
        Tokens (B, N, C), normed except those of the last block, and the attention (B, heads, N, N) float32 of the
        blocks before the last, summed and balanced once more with every block that is yielded; None if not wanted.
    """
    seen, total = [], None
    for block in blocks[:-1]:
        seen.append(block.norm(tokens))
        if attention:
            tokens, weights = block.with_attention(tokens)
            total = weights.float() if total is None else total.add_(weights)
        else:
            tokens = block(tokens)
    for source in [*seen, tokens]:
        total = total if total is None else balance(total)
        yield source, total


def balance(attention: Tensor) -> Tensor:
    """Make the columns of attention (B, heads, N, N) sum to 1, then the rows."""
    attention = attention / attention.sum(-2, keepdim=True)
    return attention.div_(attention.sum(-1, keepdim=True))


def recalibrate(attention: Tensor) -> Tensor:
    """Make balanced attention (B, heads, N, N) symmetric, drop what is below the mean of its column, rows sum to 1."""
    both = (attention + attention.mT) / 2
    above = (both - both.mean(-2, keepdim=True)).clamp_min_(0)
    return above.div_(above.sum(-1, keepdim=True).clamp_min(torch.finfo(above.dtype).tiny))


def attention_weights(kind: str, query: Tensor, key: Tensor, balanced: Tensor | None) -> Tensor:
    """Return the weights (B, heads, N, N) float32 of one of `ATTENTIONS`.

    Args:
        kind: The fused one takes the balanced attention; the others look at the block alone.
        query: (B, heads, N, d).
        key: (B, heads, N, d).
        balanced: What `sources` yielded with the tokens.
    """
    if balanced is not None:
        return recalibrate(balanced)
    if kind == "identity":
        return torch.eye(query.shape[2], device=query.device).expand(*query.shape[:2], -1, -1)
    first, second = {"q-q": (query, query), "k-k": (key, key), "vanilla": (query, key)}[kind]
    return (first.float() @ second.float().mT * query.shape[-1] ** -0.5).softmax(-1)
