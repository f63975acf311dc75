"""Fine-grained compensation of CLIPer: coarse score maps redistributed by the self-attention of a finer backbone.

Sun et al., "CLIPer: Hierarchically Improving Spatial Representation of CLIP for Open-Vocabulary Semantic Segmentation",
ICCV 2025; github.com/linsun449/cliper.code. There the attention is that of a diffusion model on 64 x 64 tokens. Maps
are applied to scores one after the other, so that no product of two 4096 x 4096 matrices is ever formed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovseg.clip.features import Context, Kept
from ovseg.errors import ConfigError
from ovseg.guides import Guide, build_guide

CHAINS = ("SFSA", "mean")
_EPS = 1e-5


@dataclass(eq=False)
class GuideMaps(Kept):
    """Attention maps (B, M, n, n) of a guide."""

    maps: Tensor


class Compensation(nn.Module):
    """Refines score maps by the attention maps of a guide.

    Attributes:
        name: Of the guide; empty where there is none.
    """

    def __init__(self, guide: str | Guide | None, chain: str | int, threshold: float) -> None:
        """Build the guide.

        Args:
            guide: Has ``attention_maps(context)`` -> (B, M, n, n).
            chain: See `chain_attention`.
            threshold: See `chain_attention`.

        Raises:
            ConfigError: There is no such chain, or the guide has no attention maps.
        """
        super().__init__()
        if isinstance(chain, str) and chain not in CHAINS:
            raise ConfigError(f"refinement is '{chain}'; expected {', '.join(CHAINS)} or the index of a map")
        self.chain, self.threshold = chain, threshold
        self.name = guide if isinstance(guide, str) else type(guide).__name__ if guide is not None else ""
        self.guide: Any = None if guide is None else build_guide(guide)
        if self.guide is not None and not hasattr(self.guide, "attention_maps"):
            raise ConfigError(f"guide '{self.name}' gives no attention maps; expected a diffusion model, or none")

    def maps(self, context: Context) -> Tensor | None:
        """Ask the guide, which knows no words, for its attention maps (B, M, n, n); None where there is no guide."""
        return None if self.guide is None else self.guide.attention_maps(context)

    def forward(self, maps: Tensor, found: GuideMaps) -> Tensor:
        """Return refined maps (B, T, a, b), peaks blended, of maps (B, T, h, w) of every text, by the guide."""
        return blend_peaks(chain_attention(maps, found.maps, self.chain, self.threshold), maps)


def chain_attention(scores: Tensor, maps: Tensor, chain: str | int, threshold: float) -> Tensor:
    """Redistribute score maps by attention maps.

    Args:
        scores: (B, T, h, w) on any grid.
        maps: Self-attention (B, M, n, n) over a square grid of n tokens, row by row; its rows sum to 1.
        chain: ``SFSA``, the product of all maps in their order; ``mean``; or the index of one map that serves alone.
        threshold: Share of the most that goes to any token from one, below which nothing goes there.

    Returns:
        (B, T, sqrt(n), sqrt(n)) float32.

    Raises:
        ConfigError: The grid is not square, or there is no such map.
    """
    count, tokens = maps.shape[1:3]
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise ConfigError(f"got attention maps of {tokens} tokens; expected a square grid, such as 4096 of 64 x 64")
    if isinstance(chain, int) and not -count <= chain < count:
        raise ConfigError(f"refinement is {chain} but the guide gives {count} maps; expected {-count}..{count - 1}")
    columns = F.interpolate(scores.float(), size=(side, side), mode="bilinear", align_corners=False).flatten(2).mT
    if chain == "mean":
        columns = torch.stack([sharpened(one, threshold) @ columns for one in maps.unbind(1)]).mean(0)
    else:
        for step in [chain] if isinstance(chain, int) else reversed(range(count)):
            columns = sharpened(maps[:, step], threshold) @ columns
    return columns.mT.unflatten(-1, (side, side))


def sharpened(weights: Tensor, threshold: float) -> Tensor:
    """Drop weights (B, n, n) that are small beside the largest of their column, and make rows sum to 1; float32."""
    weights = weights.float()
    weights = weights / (weights.amax(-2, keepdim=True) + _EPS)
    weights.masked_fill_(weights < threshold, 0)
    return weights.div_(weights.sum(-1, keepdim=True).add_(_EPS))


def presence(refined: Tensor, coarse: Tensor) -> Tensor:
    """Return how surely texts are in the image (B, T): the mean of the peaks of refined and of coarse maps."""
    return (refined.amax((2, 3)) + coarse.amax((2, 3))) / 2


def blend_peaks(refined: Tensor, coarse: Tensor) -> Tensor:
    """Scale refined maps (B, T, a, b) so that their peaks become their `presence`; of coarse maps (B, T, h, w)."""
    scale = presence(refined, coarse) / (refined.amax((2, 3)) + _EPS)
    return refined * scale[:, :, None, None]
