"""ProxyCLIP: the likeness of a guide's features takes the place of CLIP's last attention."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ovseg.clip.features import Context, DenseFeatures, Need
from ovseg.clip.tokens import Block
from ovseg.errors import at_least, one_of
from ovseg.guides import Guide, build_guide, unit_patches
from ovseg.guides.mixing import GuideGrid, cross_block, guided_block, masked_softmax
from ovseg.recalibration.base import RECALIBRATION_REGISTRY, Recalibration


@RECALIBRATION_REGISTRY.register()
class ProxyCLIP(Recalibration):
    """Proxy attention of ProxyCLIP (Lan et al., ECCV 2024; github.com/mc-lan/ProxyCLIP).

    The features live on the grid of the guide. The paper's guide is DINO, ``guide="timm:vit_base_patch8_224.dino"``.
    """

    residual, feed_forward, attention_only = False, False, False

    def __init__(
        self,
        *,
        guide: str | Guide = "clip",
        beta: float = 1.2,
        gamma: float = 3.0,
        batch_mean: bool = False,
        value_grid: str = "corrected",
        **common: Any,
    ) -> None:
        """Set the guide and how its cosines become weights.

        Args:
            guide: See `ovseg.guides.build_guide`; the default is CLIP itself, which needs no second backbone.
            beta: Pairs whose cosine is below ``beta`` times the mean cosine are dropped.
            gamma: Inverse temperature of the others.
            batch_mean: The mean of the original is that of the whole batch, so that images change each other's result.
            value_grid: The ``original`` swaps rows and columns of the values, which is wrong unless they are equal.
            common: Options of `Recalibration`.
        """
        super().__init__(**common)
        self.guide = build_guide(guide)
        self.guide_name = self.guide.name
        self.beta = at_least("beta", beta, 0.0)
        self.gamma = at_least("gamma", gamma, 0.0)
        self.batch_mean = batch_mean
        self.value_grid = one_of("value_grid", value_grid, ("corrected", "original"))

    def needs_of(self, depth: int) -> Need:
        """Ask for what the guide reads."""
        return self.needs | self.guide.needs_of(depth)

    def run_block(self, tokens: Tensor, block: Block, context: Context) -> Tensor:
        """Return the leading tokens as CLIP has them and the patches (B, P + h' * w', C) on the grid of the guide."""
        features, tower = self.guide(context), context.tower
        rows, columns = context.grid
        grid = (columns, rows) if self.value_grid == "original" else context.grid
        target = context.keep(GuideGrid((features.shape[2], features.shape[3]))).size
        weights = proxy_weights(features, self.beta, self.gamma, self.batch_mean)
        _, key, value = block.qkv(tokens)
        settings = (block, weights, grid, target, self.residual, self.feed_forward)
        patches = guided_block(tower.split(tokens)[1], tower.split(value)[1], *settings)
        return torch.cat([cross_block(tower.leading(tokens), block, key, value), patches], dim=1)

    def joint(self, tokens: Tensor, context: Context) -> DenseFeatures:
        """Bring the tokens to the joint space; they stay on the grid of the guide."""
        joint, cls = context.tower.head(tokens)
        grid = context.take(GuideGrid).size
        return DenseFeatures(context.tower.split(joint)[1].mT.unflatten(-1, grid), cls, grid, context)


def proxy_weights(features: Tensor, beta: float = 1.2, gamma: float = 3.0, batch_mean: bool = False) -> Tensor:
    """Return the attention of ProxyCLIP: the softmax of cosines, of those only that stand out (arXiv 2408.04883).

    Args:
        features: Of a guide, (B, C, h, w).
        beta: Pairs below ``beta`` times the mean cosine are dropped. A position never drops itself, else nearly uniform
            features would leave some rows without any weight.
        gamma: Inverse temperature.
        batch_mean: Whether the mean is that of all images, as in the original, or each image's own.

    Returns:
        Weights (B, h * w, h * w) in float32; the rows sum to 1.
    """
    unit = unit_patches(features)
    cosines = unit @ unit.mT
    mean = cosines.mean() if batch_mean else cosines.mean((1, 2), keepdim=True)
    return masked_softmax(gamma * cosines, cosines >= beta * mean)
