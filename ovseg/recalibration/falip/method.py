"""FALIP: the class token looks harder at a region, without a mark in the image."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ovseg.clip.features import DenseFeatures, Need
from ovseg.clip.tokens import CLASS_EMBEDDING
from ovseg.clip.tower import Tower
from ovseg.errors import ConfigError, at_least
from ovseg.recalibration.base import RECALIBRATION_REGISTRY, Recalibration, layer_index
from ovseg.recalibration.falip.foveal import class_tokens
from ovseg.regions.boxes import bowl, box_blocks, check_scales, covered, grid_boxes, mask_cover, paint, rescale


@RECALIBRATION_REGISTRY.register()
class FALIP(Recalibration):
    """Foveal attention of FALIP (Zhuang et al., ECCV 2024; github.com/pumpkin805/FALIP).

    A region is a bias on the class token's row of attention in the last blocks; the class token is then the embedding
    of the region. To choose among boxes, in pixels of the original image of ``size`` (height, width), by words::

        regions = FALIP().encode_boxes(clip, images, boxes, size)  # (B, R, D)
        score_regions(regions[0], clip.text(["a photo of a cat"])).best  # from ovseg.regions.boxes

    The published method ends there; masks, and dense features (a patch has the mean unit embedding of the boxes of a
    grid that cover it), are our generalisations. The blocks before the biased ones run once.
    """

    attention_only, flat = False, True
    requires = Recalibration.requires | {CLASS_EMBEDDING}

    def __init__(
        self,
        *,
        start: int | float = 8 / 12,
        value: float = 0.2,
        sigma: float = 100.0,
        scales: tuple[float, ...] = (0.5, 0.25),
        **common: Any,
    ) -> None:
        """Set the bias.

        Args:
            start: First biased block: its index (the original's is always 8), or the share of the blocks before it.
            value: Bias in the centre of a region.
            sigma: Width of the bias in patches, see `ovseg.regions.boxes.bowl`.
            scales: Sides of the boxes of dense features, as shares of the image's.
            common: Options of `Recalibration`; residual and feed-forward stay on.
        """
        super().__init__(**common)
        if not (self.residual and self.feed_forward):
            raise ConfigError("FALIP changes nothing but attention; leave residual and feed_forward at true")
        self.start, self.value, self.scales = start, value, check_scales(scales)
        self.sigma = at_least("sigma", sigma, 1.0)

    def blocks_of(self, depth: int) -> int:
        """Take the biased blocks."""
        first = layer_index(self.start, depth) + isinstance(self.start, float)
        if not 1 <= first < depth:
            raise ConfigError(f"start {self.start} means block {first} of {depth}; expected 1 to {depth - 1}")
        return depth - first

    def needs_of(self, depth: int) -> Need:
        """Ask for the tokens that enter the first biased block."""
        return Need(hidden=(depth - self.blocks_of(depth) - 1,))

    def bias(self, boxes: Tensor, size: tuple[int, int], network: tuple[int, int], patch: int) -> Tensor:
        """Return the bias (R, h, w) of boxes (R, 4) in an image of ``size`` that the network sees as ``network``."""
        grid = (network[0] // patch, network[1] // patch)
        return self.value * bowl(box_blocks(rescale(boxes, size, network), patch, grid), grid, self.sigma)

    def encode_boxes(self, clip: Tower, images: Tensor, boxes: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Return embeddings (B, R, D) of boxes (R, 4: x0, y0, x1, y1 in an image of ``size``, by default (H, W))."""
        dense, network = clip.dense(images, self), (images.shape[2], images.shape[3])
        return self._look(dense, self.bias(boxes, size or network, network, clip.patch_size))

    def encode_masks(self, clip: Tower, images: Tensor, masks: Tensor) -> Tensor:
        """Return embeddings (B, R, D) of masks (R, H', W') bool of any size; the bias is flat on their patches."""
        dense = clip.dense(images, self)
        return self._look(dense, self.value * mask_cover(masks, dense.grid))

    def encode(self, clip: Tower, images: Tensor, regions: Tensor | None = None) -> DenseFeatures:
        """Embed a grid of boxes, and give each patch the mean of those that cover it."""
        dense, patch = clip.dense(images, self), clip.patch_size
        blocks = box_blocks(grid_boxes((dense.grid[0] * patch, dense.grid[1] * patch), self.scales), patch, dense.grid)
        bias = self.value * bowl(blocks, dense.grid, self.sigma)
        dense.features = paint(self._look(dense, bias), covered(blocks, dense.grid))
        return dense

    def _look(self, dense: DenseFeatures, bias: Tensor) -> Tensor:
        context, tower = dense.context, dense.context.tower
        first = tower.depth - self.blocks_of(tower.depth)
        return tower.patches_to_joint(class_tokens(tower, context.hidden[first - 1], context.blocks[first:], bias))
