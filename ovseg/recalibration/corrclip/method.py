"""CorrCLIP: patches attend within regions, by the likeness of a guide's features; regions have tokens of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ovseg.clip.features import Context, DenseFeatures
from ovseg.clip.tokens import CLASS_TOKEN, Block
from ovseg.errors import ConfigError, at_least
from ovseg.guides import Guide, build_guide, unit_patches
from ovseg.guides.mixing import GuideGrid, guided_block, masked_softmax
from ovseg.recalibration.base import RECALIBRATION_REGISTRY, Recalibration, layer_index
from ovseg.recalibration.corrclip.merging import merge_regions, renumber, resize_ids
from ovseg.recalibration.corrclip.region_tokens import region_tokens, remember

_SPATIAL = {12: 5, 24: 12}  # blocks of the spatial branch by depth; elsewhere depth - 4, as the paper has it for 32


@RECALIBRATION_REGISTRY.register()
class CorrCLIP(Recalibration):
    """Reconstructed patch correlations of CorrCLIP (Zhang et al., ICCV 2025; github.com/zdk258/CorrCLIP), version 1.

    The "not segmented" of the original, the smallest label of a window, is here any negative id, as that of padding.

    Args:
        guide: Of which queries plus keys are taken; see `ovseg.guides.build_guide`.
        tau: Inverse temperature of its cosines.
        alpha: Weight of the spatial branch.
        beta: Weight of the semantic branch, which has a token for each region.
        eps: Regions are merged whose cosine is so little below the largest.
        spatial_layers: Blocks that the spatial branch averages, up to the third last; None is the paper's table.
        common: Options of `Recalibration`.
    """

    residual, feed_forward, uses_regions, attention_only = False, False, True, False
    requires = Recalibration.requires | {CLASS_TOKEN}  # whose copies look at the regions
    not_compiled = "the number of tokens depends on the regions of each image"

    def __init__(
        self,
        *,
        guide: str | Guide = "clip",
        tau: float = 4.0,
        alpha: float = 1.0,
        beta: float = 0.5,
        eps: float = 0.2,
        spatial_layers: int | None = None,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.guide = build_guide(guide, "query+key")
        self.guide_name = self.guide.name
        self.tau, self.eps = at_least("tau", tau, 0.0), at_least("eps", eps, 0.0)
        self.alpha, self.beta, self.spatial_layers = alpha, beta, spatial_layers

    def blocks_of(self, depth: int) -> int:
        """Take all blocks over, for the tokens of the regions start at the first."""
        return depth

    def run(self, tokens: Tensor, blocks: Sequence[Block], context: Context) -> Tensor:
        """Return (B, 1 + 3 M, C): CLIP's class token, then M patches of the main, spatial and semantic branch each."""
        if context.regions is None:
            raise ConfigError("CorrCLIP got images without regions; expected region ids (B, H, W) of their pixels")
        needed, averaged = self.guide.needs_of(len(blocks)).hidden, self.averaged(len(blocks))
        main, hidden, memory = remember(tokens, blocks, {*averaged, *(layer_index(i, len(blocks)) for i in needed)})
        spatial = torch.stack([hidden[index] for index in averaged]).mean(0)
        context.hidden |= hidden
        features, tower = self.guide(context), context.tower
        grid = context.keep(GuideGrid((features.shape[2], features.shape[3]))).size
        unit = unit_patches(features)
        ids = merge_regions(resize_ids(context.regions, grid).flatten(1), unit, self.eps)
        settings = (blocks[-1], self.correlation(unit @ unit.mT, ids), context.grid, grid)
        branches = [
            guided_block(tower.split(own)[1], tower.split(values)[1], *settings, self.residual, self.feed_forward)
            for own, values in ((main, memory[-1][1]), (spatial, blocks[-1].qkv(spatial)[2]))
        ]
        own = renumber(resize_ids(ids.unflatten(1, grid), context.grid).flatten(1) + 1)[0]  # 0: the rest is a region
        cls, regions = tower.class_and_rest(region_tokens(tower.class_and_rest(tokens)[0], own, blocks, memory))
        spread = resize_ids(own.unflatten(1, context.grid), grid).flatten(1)[..., None]
        return torch.cat([cls, *branches, regions.take_along_dim(spread, dim=1)], dim=1)

    def correlation(self, cosines: Tensor, ids: Tensor) -> Tensor:
        """Return the weights (B, M, M) of pairs within a region, and of likely pairs where one has no region (-1)."""
        none = (ids < 0)[:, :, None] | (ids < 0)[:, None]
        likely = cosines > cosines.mean((1, 2), keepdim=True)
        return masked_softmax(self.tau * cosines, likely.where(none, ids[:, :, None] == ids[:, None]))

    def averaged(self, depth: int) -> range:
        """Return the blocks of the spatial branch."""
        count = max(_SPATIAL.get(depth, depth - 4), 1) if self.spatial_layers is None else self.spatial_layers
        if not 1 <= count <= depth - 2:
            raise ConfigError(f"spatial_layers is {count} of {depth} blocks; expected 1 to {depth - 2}")
        return range(depth - 2 - count, depth - 2)

    def joint(self, tokens: Tensor, context: Context) -> DenseFeatures:
        """Add the branches in the joint space, each after a norm of its own."""
        grid = context.take(GuideGrid).size
        cls, branches = context.tower.class_and_rest(context.tower.patches_to_joint(tokens))
        main, spatial, semantic = branches.chunk(3, dim=1)
        features = main + self.alpha * spatial + self.beta * semantic
        return DenseFeatures(features.mT.unflatten(-1, grid), cls.squeeze(1), grid, context)
