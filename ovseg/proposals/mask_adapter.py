"""A small network that says where to look for what a mask shows, in place of the mask itself (Mask-Adapter).

Li et al., "Mask-Adapter: The Devil is in the Masks for Open-Vocabulary Segmentation", CVPR 2025 (arXiv 2412.04533;
github.com/hustvl/MaskAdapter).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovseg.errors import ConfigError
from ovseg.ops.mask_pooling import mask_pool, resize_masks

BLOCKS = 3
FINER = 4
"""A mask is read at so many times the resolution of the features."""
NARROWER = 4
"""The first of the convolutions that read a mask has so many times fewer channels than the last."""
HIDDEN_VALUES = 2**24
"""So many values of a block's hidden layer, four times as wide as the block, are held at a time in answers."""


class MaskAdapter(nn.Module):
    """Makes several soft maps of each mask and the features of its image, over which features are averaged.

    Attributes:
        maps: How many a mask gets.
        threshold: A proposed mask is where its probability exceeds this.
    """

    def __init__(self, dim: int, width: int = 768, maps: int = 16, mask_width: int = 16, threshold: float = 0.5):
        """Build it untrained; see `mask_adapter`."""
        from timm.layers import LayerNorm2d  # loads all of timm, for which only who has an adapter waits
        from timm.models.convnext import ConvNeXtBlock

        super().__init__()
        self.maps, self.threshold = maps, threshold
        self.reading = nn.Sequential(
            nn.Conv2d(1, mask_width // NARROWER, 3, 2, 1),
            LayerNorm2d(mask_width // NARROWER, eps=1e-6),
            nn.GELU(),
            nn.Conv2d(mask_width // NARROWER, mask_width, 3, 2, 1),
            LayerNorm2d(mask_width, eps=1e-6),
            nn.GELU(),
            nn.Conv2d(mask_width, dim, 1),
        )
        self.fuse = nn.Conv2d(dim, width, 1)
        self.blocks = nn.ModuleList(ConvNeXtBlock(width, ls_init_value=1e-6) for _ in range(BLOCKS))
        self.norm = nn.LayerNorm(width)
        self.final = nn.Conv2d(width, maps, 1)

    def forward(self, features: Tensor, masks: Tensor) -> Tensor:
        """Make the maps.

        Args:
            features: Of images (B, D, h, w), in the joint space of image and text.
            masks: (B, N, H, W) in 0..1 of any size and dtype, resized bilinearly.

        Returns:
            Logits (B, N * maps, h, w); those of a mask lie together.
        """
        high, wide = features.shape[2:]
        held = max(1, HIDDEN_VALUES // (4 * self.fuse.out_channels * high * wide))
        parts = masks.shape[1] if torch.is_grad_enabled() else held
        found = [
            torch.cat([self._of_image(image[None], part) for part in own.split(max(parts, 1))])
            for image, own in zip(features, masks, strict=True)
        ]
        return torch.stack(found).flatten(1, 2)

    def _of_image(self, features: Tensor, masks: Tensor) -> Tensor:
        """Return the maps (N, maps, h, w) of masks (N, H, W) of the image with some features (1, D, h, w)."""
        shapes = resize_masks(masks[:, None], self.size_of(features)).to(features.dtype)
        x = self.fuse(features + self.reading(shapes))
        for block in self.blocks:
            x = block(x)
        found: Tensor = self.final(self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
        return found

    @staticmethod
    def size_of(features: Tensor) -> tuple[int, int]:
        """Return the height and width at which masks are read on features (B, C, h, w)."""
        return FINER * features.shape[2], FINER * features.shape[3]


def mask_adapter(
    dim: int,
    *,
    adapter: bool = False,
    adapter_width: int = 768,
    adapter_maps: int = 16,
    adapter_mask_width: int = 16,
    adapter_threshold: float = 0.5,
) -> MaskAdapter | None:
    """Make the adapter of a model, untrained; None where it has none.

    Args:
        dim: Of the joint space of image and text.
        adapter: Whether there is one.
        adapter_width: Channels of its blocks.
        adapter_maps: See `MaskAdapter`.
        adapter_mask_width: Channels by which masks are read.
        adapter_threshold: See `MaskAdapter`.

    Raises:
        ConfigError: A value is out of range.
    """
    if min(adapter_width, adapter_maps) < 1 or adapter_mask_width < NARROWER or not 0 <= adapter_threshold < 1:
        raise ConfigError(
            f"an adapter has width {adapter_width}, maps {adapter_maps}, mask width {adapter_mask_width}, threshold "
            f"{adapter_threshold}; expected at least 1, 1 and {NARROWER}, and a probability below 1"
        )
    if not adapter:
        return None
    return MaskAdapter(dim, adapter_width, adapter_maps, adapter_mask_width, adapter_threshold)


def pool_by_maps(features: Tensor, maps: Tensor) -> Tensor:
    """Average features (B, C, h, w) by the share that each place has of the sigmoids of a map (B, N, h, w): (B, N, C).

    It is a softmax over their logarithms, as in the original: a map whose sigmoids all round to 0 still has shares.
    """
    return mask_pool(features, F.logsigmoid(maps), "softmax")
