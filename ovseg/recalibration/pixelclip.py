"""PixelCLIP: every patch keeps its own value, added to what the class token was."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg.clip.features import Context, DenseFeatures
from ovseg.clip.tokens import CLASS_TOKEN, DENSE, STREAM, Block, TokenTower
from ovseg.clip.tower import Tower
from ovseg.errors import ConfigError, at_least
from ovseg.recalibration.base import RECALIBRATION_REGISTRY, Recalibration


@RECALIBRATION_REGISTRY.register()
class PixelCLIP(Recalibration):
    """The dense features of PixelCLIP (Shin et al., NeurIPS 2024; github.com/cvlab-kaist/PixelCLIP).

    In the last block of a vision transformer the residual of every token is the class token, not the token itself;
    a ConvNeXt gives its last map. It runs on any CLIP, though the released weights were trained for it.
    """

    pos_resize = "bicubic"
    requires = frozenset({DENSE})

    def __init__(self, *, grid: int = 0, **common: Any) -> None:
        """Set the grid.

        Args:
            grid: Features are resized to so many rows and columns before they meet words (64 in the original); 0 leaves
                them on the patches.
            common: Options of `Recalibration`.
        """
        super().__init__(**common)
        self.grid = at_least("grid", grid, 0)

    def check_tower(self, tower: TokenTower) -> None:
        """Refuse towers of blocks that have no class token.

        Raises:
            ConfigError: Says which towers fit.
        """
        if STREAM in tower.has and CLASS_TOKEN not in tower.has:
            raise ConfigError(
                f"{self.name} adds a class token to every patch, and {tower.name} has none; use a vision transformer "
                "with one, such as ViT-B-16, or a ConvNeXt such as convnext_base_w_320"
            )

    def attention(self, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
        """Let each token attend to itself alone."""
        return v

    def run_block(self, tokens: Tensor, block: Block, context: Context) -> Tensor:
        """Add the class token that enters the block to the values of all tokens."""
        attended = block.project(self.attention(*block.qkv(tokens), context))
        tokens = attended + tokens[:, :1] if self.residual else attended
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
        with torch.no_grad():
            parts = zip(slow.tower.visual.parameters(), fast.tower.visual.parameters(), strict=True)
            for own, new in parts:
                own.mul_(momentum).add_(new, alpha=1 - momentum)
