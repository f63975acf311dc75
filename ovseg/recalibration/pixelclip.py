"""PixelCLIP: every patch keeps its own value, added to what the class token was."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg.clip.features import Context, DenseFeatures
from ovseg.clip.tokens import CLASS_TOKEN, DENSE, STREAM, Block, TokenTower
from ovseg.clip.tower import Tower
from ovseg.errors import at_least
from ovseg.recalibration.base import RECALIBRATION_REGISTRY, Recalibration


@RECALIBRATION_REGISTRY.register()
class PixelCLIP(Recalibration):
    """The dense features of PixelCLIP (Shin et al., NeurIPS 2024; github.com/cvlab-kaist/PixelCLIP).

    In the last block of a vision transformer the residual of every token is the class token, not the token itself;
    a ConvNeXt gives its last map. It runs on any CLIP, though the released weights were trained for it. Where a tower
    has no class token (ours), nothing is added.
    """

    pos_resize = "bicubic"
    requires = frozenset({DENSE})
    own_values = True

    def __init__(self, *, grid: int = 0, **common: Any) -> None:
        """Set the grid.

        Args:
            grid: Features are resized to so many rows and columns before they meet words (64 in the original); 0 leaves
                them on the patches.
            common: Options of `Recalibration`.
        """
        super().__init__(**common)
        self.grid = at_least("grid", grid, 0)

    def remarks(self, tower: TokenTower) -> tuple[str, ...]:
        """Say where a tower of blocks has no class token."""
        if STREAM in tower.has and CLASS_TOKEN not in tower.has:
            return (f"{tower.name} has no class token, so {self.name} adds nothing to the values of patches",)
        return ()

    def attention(self, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
        """Let each token attend to itself alone."""
        return v

    def run_block(self, tokens: Tensor, block: Block, context: Context) -> Tensor:
        """Add the class token that enters the block to the values of all tokens; without one nothing is added."""
        attended = block.project(self.attention(*block.qkv(tokens), context))
        cls = context.tower.split(tokens)[0]
        tokens = attended if cls is None or not self.residual else attended + cls
        return tokens + block.feed_forward(tokens) if self.feed_forward else tokens

    def encode(self, clip: Tower, images: Tensor, regions: Tensor | None = None) -> DenseFeatures:
        """Encode images; features lie on the grid of the method."""
        dense = clip.dense(images, self, regions=regions)
        if not self.grid:
            return dense
        wanted = (self.grid, self.grid)
        features = F.interpolate(dense.features, wanted, mode="bilinear", align_corners=False)
        return DenseFeatures(features, dense.cls, wanted, dense.context)

    @staticmethod
    def follow(slow: Tower, fast: Tower, momentum: float) -> None:
        """Move the weights of a slow image tower a step towards those of a fast one: ``m * slow + (1 - m) * fast``."""
        towers: list[Any] = [slow, fast]
        with torch.no_grad():
            for own, new in zip(*(one.tower.visual.parameters() for one in towers), strict=True):
                own.mul_(momentum).add_(new, alpha=1 - momentum)
