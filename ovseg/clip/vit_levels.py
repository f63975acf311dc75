"""A frozen CLIP with a plain ViT in the place of a convolutional one: levels for heads, and embeddings of masks.

No paper has this form; it is ours. A ViT has one grid, so its levels are that grid resized, without a parameter.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import Self

from ovseg.clip.features import Need
from ovseg.clip.tokens import LEVELS
from ovseg.clip.vit_clip import ViTClip
from ovseg.errors import ConfigError
from ovseg.ops.mask_pooling import mask_pool

STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}


class ViTPyramid(ViTClip):
    """A CLIP whose one grid of patches stands for the levels of a convolutional image tower.

    Every level has, side by side, the tokens that enter the recalibrated blocks (they know where things end) and the
    recalibrated features (they know what things are), both normalised over their channels; the finest one has the
    pixels too, for edges finer than a patch.

    Attributes:
        recalibration: What makes dense features of the last blocks; see `recalibrated`.
    """

    recalibration: Any  # a module; a value here would hide it

    def recalibrated(self, recalibration: Any) -> Self:
        """Choose what makes the dense features, a `ovseg.recalibration.Recalibration`; returns this CLIP.

        Raises:
            ConfigError: It takes over every block, or more than there are, or patches do not fit into the levels.
        """
        if self.handed_over(recalibration) == self.depth:
            raise ConfigError(
                f"{recalibration.name} changes all {self.depth} blocks of {self.name}; expected fewer, for masks are "
                "made of the tokens before them"
            )
        if STRIDES["res5"] % self.patch_size:
            raise ConfigError(
                f"{self.name} has patches of {self.patch_size} pixels; expected a divisor of {STRIDES['res5']}"
            )
        self.recalibration = recalibration.requires_grad_(False)
        return self

    @property
    def not_compiled(self) -> str:
        """Why `levels` cannot be compiled as one graph; empty where it can."""
        reason: str = self.recalibration.why_not_compiled()
        return reason

    @property
    def has(self) -> frozenset[str]:
        """What methods and models may need of it."""
        return self.tower.has | {LEVELS}  # not super(), whose properties torch.compile does not read

    @property
    def channels(self) -> dict[str, int]:
        """Channels of every level."""
        both = self.width + self.embed_dim
        return {name: both + 3 * 4 * 4 * (name == "res2") for name in STRIDES} | {"dense": self.embed_dim}

    def levels(self, images: Tensor) -> dict[str, Tensor]:
        """Return the feature maps of all levels; every block runs once.

        Args:
            images: Normalised (B, 3, H, W), sides multiples of 32.

        Returns:
            ``res2`` (1/4), ``res3`` (1/8), ``res4`` (1/16) and ``res5`` (1/32), each (B, C, h, w), and ``dense``
            (B, D, h, w) on the grid of the recalibration: unit vectors in the joint space, from which masks are pooled.
        """
        images = images.to(self.dtype)
        last = self.depth - self.handed_over(self.recalibration) - 1
        found = self.dense(images, self.recalibration, Need(hidden=(last,)))
        grids = (found.context.lay_out(found.context.hidden[last]), found.features)
        sources = [F.layer_norm(grid.movedim(1, -1), grid.shape[1:2]).movedim(-1, 1).float() for grid in grids]
        levels = {}
        for name, stride in STRIDES.items():
            size = (images.shape[2] // stride, images.shape[3] // stride)
            levels[name] = torch.cat([_resize(source, size) for source in sources], dim=1).to(self.dtype)
        levels["res2"] = torch.cat([levels["res2"], F.pixel_unshuffle(images, STRIDES["res2"])], dim=1)
        return {**levels, "dense": F.normalize(found.features, dim=1)}

    def pool(self, dense: Tensor, mask_logits: Tensor) -> Tensor:
        """Embed masks: the mean of the dense features inside of each.

        Args:
            dense: (B, D, h, w), of `levels`.
            mask_logits: (B, Q, H, W), resized bilinearly to (h, w); a mask is where they are positive.

        Returns:
            (B, Q, D), not of unit length; zeros for an empty mask.
        """
        return mask_pool(dense, mask_logits)


def _resize(grid: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (B, C, h, w) bilinearly, over areas where it becomes smaller."""
    if tuple(grid.shape[2:]) == size:
        return grid
    return F.interpolate(grid, size, mode="bilinear", align_corners=False, antialias=True)
