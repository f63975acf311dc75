"""Everything without a prompt: a grid of points, and of masks that are alike the stablest."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor
from torchvision.ops import nms

from ovseg.errors import ConfigError
from ovseg.meta_arch.ovsam.head import boxes_of

_MARGIN = 1.0  # by which a logit is sure


@dataclass(frozen=True)
class Everything:
    """How everything is found; SAM's own way, for the authors ask only by prompts.

    Attributes:
        points: Along each side of the image.
        at_once: Prompts that are decoded together.
        overlap: Of the boxes around two masks, above which the less stable mask is left out.
    """

    _: KW_ONLY
    points: int = 16
    at_once: int = 64
    overlap: float = 0.7

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: A value is out of range.
        """
        if self.points < 1 or self.at_once < 1 or not 0 < self.overlap <= 1:
            raise ConfigError(
                f"POINTS, AT_ONCE and OVERLAP are {self.points}, {self.at_once} and {self.overlap}; "
                "expected at least 1, at least 1, and a share above 0"
            )

    def points_in(self, size: tuple[int, int]) -> Tensor:
        """Return x and y (N, 2) of the middles of a grid on an image of a height and width."""
        rows, columns = ((torch.arange(self.points) + 0.5) * side / self.points for side in size)
        return torch.cartesian_prod(columns, rows)

    def chosen(self, masks: Tensor, size: tuple[int, int], side: int) -> Tensor:
        """Return which masks are kept, the stablest first.

        Args:
            masks: Logits (N, h, w) of the square.
            size: Height and width in pixels of the image in its upper left corner.
            side: Pixels of the square.

        Returns:
            Numbers (M,) of masks, at least one.
        """
        rows, columns = (-(-own * masks.shape[-1] // side) for own in size)
        own = masks[:, :rows, :columns]
        sure, loose = (own > _MARGIN).flatten(1).sum(1), (own > -_MARGIN).flatten(1).sum(1)
        stable = sure / loose.clamp(min=1)
        return nms(boxes_of(own, 1.0).float(), stable.float(), self.overlap)
