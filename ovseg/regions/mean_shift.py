"""Regions without any weights: colours flattened by mean shift, and connected areas of one colour."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ovseg.errors import ConfigError
from ovseg.regions.generators import REGION_REGISTRY, RegionGenerator, to_pixels

_LIGHT = 0.5  # weight of lightness beside the two axes of hue: light and shade divide grounds that are one


@REGION_REGISTRY.register()
class MeanShift(RegionGenerator):
    """Mean-shift filtering (Comaniciu and Meer, TPAMI 2002) by OpenCV, then connected areas of nearly one colour.

    It knows colours and places only: an object of several colours falls into several regions. It is fast, the same each
    time, and needs nothing but OpenCV (github.com/opencv/opencv).
    """

    def __init__(
        self, *, spatial: float = 0.04, colour: float = 12.0, contrast: float = 4.0, smallest: float = 0.003
    ) -> None:
        """Set the sizes.

        Args:
            spatial: Radius of the filter, as a share of the shorter side of the image.
            colour: Radius of the filter in colour, of 255.
            contrast: Distance in colour, of 255, at which neighbouring pixels belong to different regions.
            smallest: Share of the image below which a region joins the neighbour of the nearest colour.

        Raises:
            ConfigError: A value is not positive.
        """
        super().__init__()
        self.spatial, self.colour, self.contrast, self.smallest = spatial, colour, contrast, smallest
        for name, value in (("spatial", spatial), ("colour", colour), ("contrast", contrast), ("smallest", smallest)):
            if value <= 0:
                raise ConfigError(f"{name} of MeanShift is {value}; expected more than 0")

    def forward(self, image: Tensor) -> Tensor:
        """Return the ids (H, W) int64 of an image (3, H, W); every pixel has a region."""
        import cv2

        radius = max(self.spatial * min(image.shape[1:]), 1.0)
        lab = cv2.cvtColor(to_pixels(image), cv2.COLOR_RGB2LAB)
        lab[..., 0] = lab[..., 0] * _LIGHT
        flat = cv2.pyrMeanShiftFiltering(lab, radius, self.colour)
        ids = connected(flat, self.contrast)
        return torch.from_numpy(absorb(ids, flat, self.smallest * ids.size)).to(image.device)


def connected(colours: np.ndarray, contrast: float) -> np.ndarray:
    """Return ids (H, W) int64 of areas through which a way leads without a step of ``contrast`` in colour.

    Pixels (H, W, 3) are laid out with a cell between each two neighbours that is open where they are alike; the
    components of this picture are the areas.
    """
    import cv2

    values = colours.astype(np.float32)
    height, width = values.shape[:2]
    cells = np.zeros((2 * height - 1, 2 * width - 1), np.uint8)
    cells[::2, ::2] = 1
    cells[1::2, ::2] = np.linalg.norm(values[1:] - values[:-1], axis=2) < contrast
    cells[::2, 1::2] = np.linalg.norm(values[:, 1:] - values[:, :-1], axis=2) < contrast
    labels = cv2.connectedComponents(cells, connectivity=4)[1][::2, ::2]
    return labels.astype(np.int64) - 1


def absorb(ids: np.ndarray, colours: np.ndarray, smallest: float) -> np.ndarray:
    """Join regions of less than ``smallest`` pixels to the neighbour of the nearest mean colour, until there are none.

    Args:
        ids: (H, W) int64 from 0 on.
        colours: (H, W, 3).
        smallest: In pixels.

    Returns:
        New ids (H, W) int64 from 0 on without gaps.
    """
    while True:
        ids = np.unique(ids, return_inverse=True)[1].reshape(ids.shape)
        sizes = np.bincount(ids.ravel())
        small = sizes < smallest
        if len(sizes) == 1 or not small.any():
            return ids
        channels = [np.bincount(ids.ravel(), colours[..., channel].ravel()) / sizes for channel in range(3)]
        means = np.stack(channels, axis=1)
        ids = _joined(_nearest(ids, means, small))[ids]


def _nearest(ids: np.ndarray, means: np.ndarray, small: np.ndarray) -> np.ndarray:
    """Return for every region the one it joins: itself, or for small ones the touching one of the nearest colour."""
    sides = ((ids[1:], ids[:-1]), (ids[:, 1:], ids[:, :-1]))
    pairs = np.concatenate([np.stack([one.ravel(), other.ravel()], axis=1) for one, other in sides])
    pairs = np.unique(np.concatenate([pairs, pairs[:, ::-1]]), axis=0)
    pairs = pairs[(pairs[:, 0] != pairs[:, 1]) & small[pairs[:, 0]]]
    distances = np.linalg.norm(means[pairs[:, 0]] - means[pairs[:, 1]], axis=1)
    pairs = pairs[np.lexsort((pairs[:, 1], distances, pairs[:, 0]))]
    first = np.unique(pairs[:, 0], return_index=True)[1]
    target = np.arange(len(means))
    target[pairs[first, 0]] = pairs[first, 1]
    return target


def _joined(target: np.ndarray) -> np.ndarray:
    """Follow targets to the end; of two that join each other the smaller id stays."""
    own = np.arange(len(target))
    mutual = (target[target] == own) & (own < target)
    target = np.where(mutual, own, target)
    while not np.array_equal(target[target], target):
        target = target[target]
    return target
