"""CLIP2SAM: SAM's mask decoder with one mask of a prompt, and what a pyramid on CLIP sees of its region."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align

from ovseg.meta_arch.ovsam.library import sam_modules
from ovseg.meta_arch.ovsam.neck import STRIDES

LOG_SCALE = 4.6052
"""Logarithm of the factor between cosines and logits."""
REGION = 12
"""Side of the grid on which a region is looked at."""
FINEST = 56
"""Side in pixels up to twice of which a region is looked at on the finest level."""
UNUSED = -1000.0
"""Score of a class that is not asked for."""


class Convolution(nn.Module):
    """A convolution under the name that the released files have for it."""

    def __init__(self, channels: int, out: int, side: int, bias: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, side, padding=side // 2, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (B, C, H, W)."""
        found: Tensor = self.conv(x)
        return found


class Pyramid(nn.Module):
    """A feature pyramid without norm or activation: what is coarser is added to what is finer."""

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.lateral_convs = nn.ModuleList(Convolution(own, width, 1) for own in channels)
        self.fpn_convs = nn.ModuleList(Convolution(width, width, 3) for _ in channels)

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Return levels (B, width, h, w), finest first, of levels (B, C, h, w)."""
        own = [layer(level) for layer, level in zip(self.lateral_convs, levels, strict=True)]
        for i in range(len(own) - 1, 0, -1):
            own[i - 1] = own[i - 1] + F.interpolate(own[i], size=own[i - 1].shape[2:], mode="nearest")
        return [layer(level) for layer, level in zip(self.fpn_convs, own, strict=True)]


class OneMaskDecoder(nn.Module):
    """SAM's mask decoder with a single mask token and no estimate of its own quality."""

    def __init__(self, width: int, depth: int = 2, heads: int = 8, hidden: int = 2048) -> None:
        super().__init__()
        modules = sam_modules()
        self.transformer = modules.TwoWayTransformer(depth=depth, embedding_dim=width, mlp_dim=hidden, num_heads=heads)
        self.mask_tokens = nn.Embedding(1, width)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(width, width // 4, 2, 2),
            modules.common.LayerNorm2d(width // 4),
            nn.GELU(),
            nn.ConvTranspose2d(width // 4, width // 8, 2, 2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList([modules.mask_decoder.MLP(width, width, width // 8, 3)])


class Decoder(nn.Module):
    """Masks of prompts, and what names them.

    The released files hold a token and a network for labels, which their code multiplies by zero; here they have
    their place and are not run.
    """

    def __init__(self, width: int, embed: int, depth: int = 2, heads: int = 8, hidden: int = 2048) -> None:
        """Put it together.

        Args:
            width: Channels of SAM's features.
            embed: Of CLIP's joint space.
            depth: Layers of the two-way transformer.
            heads: Of its attention.
            hidden: Channels inside of it.
        """
        super().__init__()
        self.mask_decoder = OneMaskDecoder(width, depth, heads, hidden)
        self.label_token = nn.Embedding(1, width)
        self.label_mlp = sam_modules().mask_decoder.MLP(width, width, embed, 3)
        self.roi_conv = nn.Sequential(Convolution(width, embed, 1, bias=False))

    def masks(self, features: Tensor, positions: Tensor, sparse: Tensor, dense: Tensor) -> Tensor:
        """Decode prompts.

        Args:
            features: (1, D, h, w) of one image.
            positions: Of its cells, (1, D, h, w).
            sparse: Points and corners of each prompt (N, P, D).
            dense: (N, D, h, w).

        Returns:
            Mask logits (N, 1, 4h, 4w).
        """
        own = self.mask_decoder
        ours = torch.cat([self.label_token.weight, own.mask_tokens.weight])
        tokens = torch.cat([ours.expand(len(sparse), -1, -1), sparse], dim=1)
        source = features + dense
        said, seen = own.transformer(source, positions.expand(len(sparse), -1, -1, -1), tokens)
        upscaled = own.output_upscaling(seen.mT.reshape(source.shape))
        weights = own.output_hypernetworks_mlps[0](said[:, 1])
        return (weights[:, None] @ upscaled.flatten(2)).unflatten(2, upscaled.shape[2:])

    def embed(self, regions: Tensor) -> Tensor:
        """Return what names regions (N, D, 12, 12): (N, E), nowhere negative."""
        found: Tensor = self.roi_conv(regions).relu().mean((2, 3))
        return found


def boxes_of(masks: Tensor, scale: float) -> Tensor:
    """Return the boxes around masks.

    Args:
        masks: Logits (N, h, w); a mask is where they are positive.
        scale: Pixels of the network's input for one of theirs.

    Returns:
        Left, top, right and bottom (N, 4) in pixels of the input; zeros for an empty mask.
    """
    inside = masks > 0
    ends = []
    for axis in (1, 2):  # which columns, then which rows have some of it
        some = inside.any(axis)
        places = torch.arange(some.shape[1], device=masks.device)
        low = torch.where(some, places, some.shape[1]).amin(1)
        high = torch.where(some, places + 1, 0).amax(1)
        ends.append((low, high))
    (left, right), (top, bottom) = ends
    found = torch.stack([left, top, right, bottom], 1).to(masks.dtype) * scale
    return found * inside.flatten(1).any(1, keepdim=True)


def levels_of(boxes: Tensor, count: int) -> Tensor:
    """Return on which of ``count`` levels, 0 the finest, boxes (N, 4) are looked at."""
    sides = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
    return (sides / FINEST + 1e-6).log2().floor().clamp(0, count - 1).long()


def regions_of(pyramid: Sequence[Tensor], boxes: Tensor) -> Tensor:
    """Cut boxes (N, 4) of one image from its pyramid, each from the level of its size; returns (N, D, 12, 12)."""
    chosen = levels_of(boxes, len(pyramid))
    found = pyramid[0].new_zeros(len(boxes), pyramid[0].shape[1], REGION, REGION)
    for number, (level, stride) in enumerate(zip(pyramid, STRIDES, strict=False)):
        own = (chosen == number).nonzero().flatten()
        found[own] = cut(level, boxes[own], stride)
    return found


def cut(level: Tensor, boxes: Tensor, stride: int) -> Tensor:
    """Cut boxes (N, 4) in pixels of the input from a level (1, C, h, w) of it: (N, C, 12, 12)."""
    found: Tensor = roi_align(level, [boxes.to(level)], REGION, 1 / stride, sampling_ratio=-1, aligned=True)
    return found


def fuse(head: Tensor, own: Tensor, seen: Tensor, shares: tuple[float, float], valid: Tensor | None = None) -> Tensor:
    """Mix what the head and what CLIP says of regions, as shares of probabilities that are multiplied.

    Args:
        head: Logits (..., C + 1) of the head, the background last.
        own: Of CLIP.
        seen: Which classes (C,) the head was trained on; the background counts as one.
        shares: How much of CLIP counts where a class was seen, and where it was not.
        valid: Which regions (...) CLIP can say something of; None for all.

    Returns:
        Logarithms (..., C + 1) of the products, of which no class is minus infinity.
    """
    of_clip = torch.where(F.pad(seen, (0, 1), value=True), *(head.new_tensor(share) for share in shares))
    if valid is not None:
        of_clip = of_clip * valid[..., None]
    # Sums of logarithms are the same as the logarithm of the products, and do not underflow.
    return (1 - of_clip) * head.log_softmax(-1) + of_clip * own.log_softmax(-1)
