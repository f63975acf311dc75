"""Sink tokens of CLIP, to which other patches look whatever they show: told by a few channels, and smoothed."""

from __future__ import annotations

import re

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg.clip.tokens import TokenTower

_B16 = (4, 162, 189, 326, 429, 474, 633, 713)
_L14 = (250, 261, 437, 650, 720, 779, 936, 1005)
KNOWN = {
    **dict.fromkeys(("ViT-B-16/openai", "ViT-B-16-quickgelu/openai"), _B16),
    **dict.fromkeys(("openai/clip-vit-base-patch16", "timm/vit_base_patch16_clip_224.openai"), _B16),
    **dict.fromkeys(("ViT-L-14/openai", "ViT-L-14-quickgelu/openai"), _L14),
    **dict.fromkeys(("openai/clip-vit-large-patch14", "timm/vit_large_patch14_clip_224.openai"), _L14),
}
"""The channels in which sinks stand out, of the checkpoints for which the authors found them; others have others.

Names are those of open_clip and of the repositories of the hub that hold the same weights.
"""
_OPENAI = {768: ("ViT-B-16/openai", _B16), 1024: ("ViT-L-14/openai", _L14)}


def known_channels(tower: TokenTower) -> tuple[int, ...]:
    """Return the channels that are known of a tower, none where its name says none of `KNOWN`."""
    return KNOWN.get(re.sub(r"^hf(-hub)?:|@[^/]*$", "", tower.name), ())


def unknown_channels(tower: TokenTower) -> str:
    """Say that channels are not known of a tower, and which to give if its file holds weights of `KNOWN`."""
    note = f"RF_CLIP smooths no sink tokens: their channels are not known of {tower.name}; give SINK_CHANNELS"
    if tower.width not in _OPENAI:
        return note
    name, found = _OPENAI[tower.width]
    return f"{note}, for a copy of {name} {list(found)}"


def denoise(patches: Tensor, grid: tuple[int, int], channels: tuple[int, ...], sigma: float, alpha: float) -> Tensor:
    """Smooth sink tokens by their neighbours; the others stay as they are.

    Args:
        patches: (B, h * w, C).
        grid: Rows and columns (h, w).
        channels: In which sinks stand out; without any, nothing is changed.
        sigma: A token is a sink if one of these channels, with the smallest of all channels as zero, has more than this
            many times its share of the sum of all channels.
        alpha: Share of the mean of the nine tokens around it, itself among them; beyond the border there are zeros.

    Returns:
        (B, h * w, C) of the dtype of the patches.
    """
    if not channels:
        return patches
    exact = patches.float()
    above = exact - exact.amin(-1, keepdim=True)
    shares = above[..., list(channels)] / above.sum(-1, keepdim=True).clamp(min=1e-8)
    sink = shares.amax(-1, keepdim=True) > sigma / patches.shape[-1]
    around = F.avg_pool2d(exact.mT.unflatten(-1, grid), 3, stride=1, padding=1).flatten(2).mT
    return torch.where(sink, (1 - alpha) * exact + alpha * around, exact).to(patches.dtype)


def refocused(weights: Tensor, tower: TokenTower, threshold: float = 0.1, kept: float = 0.6) -> Tensor:
    """Take weight from the patches at which most patches look, head by head, and share it out among the others.

    Args:
        weights: Of attention (B, heads, N, N).
        tower: Says which tokens are patches; only weights of patches for patches change.
        threshold: A patch is a sink if the sum of what patches give it, as a share of the number of tokens, exceeds it.
        kept: Share of its weight that a sink keeps.

    Returns:
        Weights (B, heads, N, N); rows keep their sums.
    """
    pairs = tower.patch_pairs(weights)
    sink = pairs.sum(-2, keepdim=True) / weights.shape[-1] > threshold
    lost = (1 - kept) * pairs.masked_fill(~sink, 0).sum(-1, keepdim=True)
    others = pairs.masked_fill(sink, 0)
    changed = torch.where(sink, kept * pairs, others + lost * others / (others.sum(-1, keepdim=True) + 1e-8))
    before = tower.split(tower.leading(weights.mT).mT)[1]  # what patches give to the leading tokens
    return torch.cat([tower.leading(weights), torch.cat([before, changed], dim=-1)], dim=-2)
