"""Embeddings of segments by masked attention with global subtraction (Zero-guidance segmentation)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg.clip.tokens import Block, TokenTower

SEGMENTS_PER_PASS = 8  # of a 577-token image with 16 heads, 170 MB of attention weights


def embed_segments(
    tokens: Tensor,
    masks: Tensor,
    blocks: Sequence[Block],
    tower: TokenTower,
    sd: float | None,
    residual: bool = True,
    feed_forward: bool = True,
) -> tuple[Tensor, Tensor]:
    """Take the tokens of one image through blocks in which the segments are all that is seen; one pass each.

    Args:
        tokens: (1, P + N, C).
        masks: (M, N) weights of the patches, 0..1.
        blocks: The last blocks of the tower.
        tower: Whose blocks they are, with a class token that becomes its embedding of an image.
        sd: See `masked_attention`.
        residual: Whether what enters a block is added to what its attention gives.
        feed_forward: Whether its feed-forward half runs.

    Returns:
        Embeddings (M, D) of the segments in the joint space, not of unit length, and their saliency (M, blocks).
    """
    found = []
    for part in masks.split(SEGMENTS_PER_PASS):
        stream, trace = tokens, []  # one row for all segments until the first mask
        for block in blocks:
            masks_of_tokens = F.pad(part, (tower.prefix, 0), value=1.0)
            mixed, saliency = masked_attention(tower, *block.qkv(stream), masks_of_tokens, sd)
            if block is blocks[-1]:  # of which no more than the class token is wanted
                mixed, stream = tower.class_and_rest(mixed)[0], tower.class_and_rest(stream)[0]
            attended = block.project(mixed)
            stream = stream + attended if residual else attended
            stream = stream + block.feed_forward(stream) if feed_forward else stream
            trace.append(saliency)
        found.append((tower.patches_to_joint(stream).squeeze(1), torch.stack(trace, 1)))
    embeddings, saliencies = zip(*found, strict=True)
    return torch.cat(embeddings), torch.cat(saliencies)


def masked_attention(
    tower: TokenTower, q: Tensor, k: Tensor, v: Tensor, masks: Tensor, sd: float | None
) -> tuple[Tensor, Tensor]:
    """Attend to segments, less what the class token attends to in the whole image.

    The more a segment's attention is that of the image already, the less is subtracted.

    Args:
        tower: Says where the class token lies.
        q: Queries (M, heads, N, d), or (1, heads, N, d) for all segments.
        k: Keys of the same shape.
        v: Values of the same shape.
        masks: (M, N) weights of the keys.
        sd: Softness of the subtraction; None subtracts nothing.

    Returns:
        Mixed values (M, heads, N, d), and the saliency (M,): mean cosine of plain and masked attention.
    """
    scores = (q * q.shape[-1] ** -0.5 @ k.mT).float()
    plain, masked = scores.softmax(-1), (scores + masks.log()[:, None, None]).softmax(-1)
    saliency = F.cosine_similarity(plain, masked, dim=-1).mean((1, 2))
    mixed = masked.to(v.dtype) @ v
    if sd is not None:
        weight = subtraction_weight(saliency, sd).to(v.dtype)[:, None, None, None]
        mixed = mixed - weight * (tower.class_and_rest(plain)[0].to(v.dtype) @ v)
    return mixed, saliency


def subtraction_weight(saliency: Tensor, sd: float) -> Tensor:
    """Return the share of global attention that is subtracted, 0..1, of saliencies in -1..1."""
    return torch.exp(-((saliency + 1) ** 2) / sd)
