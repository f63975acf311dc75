"""What the heads of DINO's last block look at: for training, and for telling objects from what is around them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg.guides.base import entering
from ovseg.guides.timm import projections

SCALE = 0.125
"""Of queries and keys, whatever the width of a head: a constant of the original."""


def look(backbone: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Run a vision transformer of timm.

    Args:
        backbone: The transformer.
        images: Normalised (B, 3, h, w), sides multiples of its patch.

    Returns:
        Patches (B, P, D) behind the last norm, and how much the class token looks at each in each head of the last
        block, as logits (B, heads, P); queries and keys are those of the projection, before any rotation.
    """
    attention = backbone.blocks[-1].attn
    with entering([attention]) as entered:
        tokens = backbone.forward_features(images)
    query, key, _ = (one.unflatten(-1, (attention.num_heads, -1)) for one in projections(attention, entered[0]))
    first = backbone.num_prefix_tokens
    with torch.autocast(images.device.type, enabled=False):
        logits = torch.einsum("bhd,bphd->bhp", SCALE * query[:, 0].float(), key[:, first:].float())
    return tokens[:, first:], logits


def head_tokens(patches: Tensor, logits: Tensor) -> Tensor:
    """Return what heads see (B, heads, D): patches (B, P, D) by the softmax of logits (B, heads, P), over P."""
    return logits.softmax(-1) @ patches / patches.shape[1]


def cleaned(masks: Tensor, rows: Tensor, patches: Tensor, logits: Tensor, share: float) -> Tensor:
    """Weaken masks where no head looks that has to do with their class.

    The maps of all classes are stretched together, so that each depends on the others.

    Args:
        masks: Of classes (B, T, P), between 0 and 1.
        rows: Unit vectors of the classes (B, T, D) or (T, D).
        patches: (B, P, D).
        logits: (B, heads, P), not of a softmax: they are both what a head looks at and its map.
        share: Weight of these maps beside the masks.
    """
    seen = F.normalize(logits @ patches / patches.shape[1], dim=-1)
    heads = (rows @ seen.mT).softmax(-1)
    maps = (heads @ logits / heads.sum(-1, keepdim=True)).softmax(-1)
    bottom, top = masks.amin((1, 2), keepdim=True), masks.amax((1, 2), keepdim=True)
    # As in the original maps are divided by the largest value, not by how far that is from the smallest.
    stretched = (maps - maps.amin((1, 2), keepdim=True)) / maps.amax((1, 2), keepdim=True)
    return (masks + share * (stretched * (top - bottom) + bottom)) / (1 + share)
