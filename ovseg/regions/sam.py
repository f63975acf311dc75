"""Regions by SAM's automatic mask generator."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ovseg.errors import ConfigError
from ovseg.guides.sam import Apart, load_sam
from ovseg.regions.generators import REGION_REGISTRY, RegionGenerator, to_pixels


@REGION_REGISTRY.register()
class SAM(RegionGenerator):
    """Segment Anything (Kirillov et al., ICCV 2023; github.com/facebookresearch/segment-anything) on a grid of points.

    Its weights stay in single precision, for its post-processing needs it, and so apart from the modules around it.
    """

    def __init__(self, *, checkpoint: str, model_type: str = "vit_h", points_per_side: int = 32) -> None:
        """Load SAM.

        Args:
            checkpoint: An official file, such as ``sam_vit_h_4b8939.pth``.
            model_type: ``vit_b``, ``vit_l`` or ``vit_h``.
            points_per_side: The grid has so many points a side.

        Raises:
            ConfigError: There is no point.
            UnknownNameError: No such model type.
            WeightsError: The file is missing or does not fit.
        """
        super().__init__()
        if points_per_side < 1:
            raise ConfigError(f"points_per_side is {points_per_side}; expected at least 1")
        self.model_type, self.points_per_side = model_type, points_per_side
        self._sam = Apart(load_sam(model_type, checkpoint))
        self.weights = self._sam.hash

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        """Return the ids (H, W) int64 of an image (3, H, W); the smallest mask of a pixel counts, -1 is in no mask."""
        from segment_anything import SamAutomaticMaskGenerator

        # A generator remembers the image that it is at: threads share the weights, and each call has one of its own.
        sam = self._sam.get(image.device)
        generator = SamAutomaticMaskGenerator(sam, points_per_side=self.points_per_side)
        return flatten_masks([mask["segmentation"] for mask in generator.generate(to_pixels(image))], image)


def flatten_masks(masks: list[np.ndarray], image: Tensor) -> Tensor:
    """Return one map of ids (H, W) for boolean masks (H, W) that overlap; the smallest mask of a pixel is on top."""
    if not masks:
        return torch.full(image.shape[1:], -1, device=image.device)
    stacked = torch.from_numpy(np.stack(masks)).to(image.device)
    stacked = stacked[stacked.sum((1, 2)).argsort(stable=True)]
    return stacked.byte().argmax(0).where(stacked.any(0), -1)  # the first that covers a pixel
