"""CLIPSelf: regions of the dense map learn to be what the CLIP makes of their crops, without a label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg.clip import Tower
from ovseg.data.grid_crops import GridCrops
from ovseg.errors import at_least
from ovseg.losses.self_distillation import cosine_loss
from ovseg.meta_arch.tuned_clip.recipe import RECIPE_REGISTRY, Recipe, Sample, View
from ovseg.ops.box_pooling import pool_boxes
from ovseg.recalibration.maskclip import MaskCLIP

if TYPE_CHECKING:
    from ovseg.contract import Words


@RECIPE_REGISTRY.register()
class CLIPSelf(Recipe):
    """Self-distillation by grid cells (Wu et al., ICLR 2024, arXiv 2310.01403; github.com/wusize/CLIPSelf).

    In the last block each token attends to itself alone, with residual and feed-forward. The released weights are
    ``0.7 * student + 0.3 * original`` for ViT-B/16, 0.95 of the student for ViT-L/14.
    """

    def __init__(
        self,
        *,
        side: int = 1024,
        boxes: int = 20,
        split: int = 6,
        scale: float = 1.0,
        weight: float = 1.0,
        **common: Any,
    ) -> None:
        """Set how images are cut.

        Args:
            side: Of the square in pixels that the student sees.
            boxes: Most cells of an image.
            split: Most rows and columns of a grid.
            scale: Cells are enlarged so where the teacher sees them.
            weight: Of the loss.
            common: Options of `Recipe`.

        Raises:
            ConfigError: A value is not allowed.
        """
        super().__init__(**common)
        self.side, self.boxes = int(at_least("side", side, 1)), int(at_least("boxes", boxes, 1))
        self.split, self.scale = int(at_least("split", split, 1)), at_least("scale", scale, 1.0)
        self.weight = at_least("weight", weight, 0.0)

    def view(self, clip: Tower) -> View:
        """Cut images by random grids; crops have the size that the CLIP was trained with."""
        own: Any = clip
        return GridCrops(self.side, own.image_size, clip.mean, clip.std, self.boxes, self.split, self.scale)

    def losses(self, student: Tower, original: Tower, batch: Sequence[Sample], words: Words) -> dict[str, Tensor]:
        """Return the distance of pooled regions of the student from crops of the original."""
        images = torch.stack([sample["square"] for sample in batch]).to(student.device)
        crops = torch.cat([sample["crops"] for sample in batch]).to(student.device)
        with torch.no_grad():
            wanted = original.dense(crops.to(original.dtype)).cls
        own = pool_boxes(dense_map(student, images), [sample["boxes"] for sample in batch])
        return {"loss_clipself": self.weight * cosine_loss(own, wanted)}


def dense_map(clip: Tower, images: Tensor) -> Tensor:
    """Return the unit features (B, D, h, w) of normalised images (B, 3, H, W), each token for itself in the end."""
    return F.normalize(clip.dense(images.to(clip.dtype), MaskCLIP()).features.float(), dim=1)
