"""RedCircle: marks in the image tell CLIP where to look."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg.clip.features import DenseFeatures
from ovseg.clip.normalise import denormalise, normalise
from ovseg.clip.tokens import DENSE
from ovseg.clip.tower import Tower
from ovseg.errors import one_of
from ovseg.recalibration.base import RECALIBRATION_REGISTRY, Recalibration
from ovseg.recalibration.redcircle.visual_prompts import PROMPTS, mark
from ovseg.regions.boxes import box_blocks, check_scales, covered, grid_boxes, paint, rescale

_COPIES = 64  # of an image that are encoded at a time


@RECALIBRATION_REGISTRY.register()
class RedCircle(Recalibration):
    """Red circles (Shtedritski et al., ICCV 2023; no code of theirs; drawn as in github.com/pumpkin805/FALIP).

    As in the paper, CLIP encodes one marked image per box and view: this is the slow way to look at a region. To choose
    among boxes, given in pixels of the original image of ``size``, by words::

        regions = RedCircle(prompt="ensemble").encode_boxes(clip, images, boxes, size)  # (B, R, D)
        score_regions(regions[0], captions, negatives=others).best  # from ovseg.regions.boxes

    Dense features (the feature of a patch is the mean unit embedding of the boxes of a grid that cover it) are our
    generalisation.
    """

    attention_only = False
    requires = frozenset({DENSE})
    without_golden = "no public code of the paper; the marks are tested against drawings of Pillow"

    def __init__(self, *, prompt: str = "circle", scales: tuple[float, ...] = (0.5, 0.25), **common: Any) -> None:
        """Choose the mark.

        Args:
            prompt: ``circle`` (red ellipse in the box), ``circle_blur``, ``circle_grey`` (the outside of the ellipse
                blurred or without colours too), ``ensemble`` (the mean of these three), ``blur``, ``grey`` (the
                outside of the box, no line), or ``crop``.
            scales: Sides of the boxes of dense features, as shares of the image's.
            common: Options of `Recalibration`.
        """
        super().__init__(**common)
        self.prompt, self.scales = one_of("prompt", prompt, tuple(PROMPTS)), check_scales(scales)

    def encode_boxes(self, clip: Tower, images: Tensor, boxes: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Return unit embeddings (B, R, D) of boxes (R, 4), in each of the normalised images (B, 3, H, W).

        Boxes are x0, y0, x1, y1 in pixels of an image of ``size`` (height, width); None means (H, W).
        """
        network = (images.shape[-2], images.shape[-1])
        return self._encode_boxes(clip, images, rescale(boxes, size or network, network))

    def _encode_boxes(self, clip: Tower, images: Tensor, boxes: Tensor) -> Tensor:
        rgb = denormalise(images.float(), clip.mean, clip.std)
        found = []
        for part in boxes.split(max(1, _COPIES // len(images))):
            views = []
            for view in PROMPTS[self.prompt]:
                marked = normalise(mark(rgb, part, view), clip.mean, clip.std).flatten(0, 1).to(images.dtype)
                views.append(F.normalize(clip.dense(marked, self).cls.float(), dim=-1))
            found.append(torch.stack(views).mean(0).unflatten(0, (len(images), len(part))))
        return F.normalize(torch.cat(found, dim=1), dim=-1).to(clip.dtype)

    def encode(self, clip: Tower, images: Tensor, regions: Tensor | None = None) -> DenseFeatures:
        """Embed a grid of marked boxes, and give each patch the mean of those that cover it."""
        dense, patch = clip.dense(images, self), clip.patch_size
        boxes = grid_boxes((dense.grid[0] * patch, dense.grid[1] * patch), self.scales)
        cover = covered(box_blocks(boxes, patch, dense.grid), dense.grid)
        dense.features = paint(self._encode_boxes(clip, images, boxes), cover)
        return dense
