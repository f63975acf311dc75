"""Random changes to a training image and its map of segments, together.

Each is a small object; it draws from the generator that it is given and from nothing else, so that a sample depends on
its number alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
from PIL import Image

from ovseg.data.preprocessing import SizeRule
from ovseg.errors import ConfigError

if TYPE_CHECKING:
    from detectron2.config import CfgNode

PAD_PIXEL = 128  # grey level around an image that is too small, before normalisation (Detectron2, Mask2Former)
VOID = -1

Sample: TypeAlias = tuple[np.ndarray, np.ndarray]
"""RGB image (H, W, 3) uint8 and segment ids (H, W) int32, -1 void."""


class Augmentation(Protocol):
    """A random change."""

    def __call__(self, image: np.ndarray, ids: np.ndarray, rng: np.random.Generator) -> Sample:
        """Return the changed image and ids; the arguments stay as they are."""


def resize(image: np.ndarray, ids: np.ndarray, height: int, width: int) -> Sample:
    """Resize the image (bilinear with antialiasing, as Pillow does it) and the ids (nearest)."""
    if (height, width) == ids.shape:
        return image, ids
    resized = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    rows, columns = (
        ((np.arange(n) + 0.5) * (m / n)).astype(int) for n, m in zip((height, width), ids.shape, strict=True)
    )
    return resized, ids[rows[:, None], columns]


@dataclass(frozen=True)
class ResizeShortestEdge:
    """Bring the shorter side to a length of a list (or, `ranged`, between two), the longer to at most `longest`."""

    lengths: Sequence[int]
    longest: int
    ranged: bool = False

    def __call__(self, image: np.ndarray, ids: np.ndarray, rng: np.random.Generator) -> Sample:
        """Resize."""
        low, high = min(self.lengths), max(self.lengths)
        length = int(rng.integers(low, high + 1)) if self.ranged else int(rng.choice(self.lengths))
        return resize(image, ids, *SizeRule(length, self.longest).size(*ids.shape))


@dataclass(frozen=True)
class ResizeScale:
    """Fit the image into a square of `side` times a random scale: large-scale jittering (Ghiasi et al., CVPR 2021)."""

    low: float
    high: float
    side: int

    def __call__(self, image: np.ndarray, ids: np.ndarray, rng: np.random.Generator) -> Sample:
        """Resize."""
        scale = rng.uniform(self.low, self.high) * self.side / max(ids.shape)
        return resize(image, ids, *(max(1, round(side * scale)) for side in ids.shape))


@dataclass(frozen=True)
class RandomCrop:
    """Cut out a window of (height, width) at a random place; what is smaller stays whole."""

    height: int
    width: int

    def __call__(self, image: np.ndarray, ids: np.ndarray, rng: np.random.Generator) -> Sample:
        """Crop."""
        top, left = (
            int(rng.integers(0, max(have - want, 0) + 1))
            for have, want in zip(ids.shape, (self.height, self.width), strict=True)
        )
        window = (slice(top, top + self.height), slice(left, left + self.width))
        return image[window], ids[window]


@dataclass(frozen=True)
class PadTo:
    """Pad at the right and the bottom to at least (height, width): grey, and void."""

    height: int
    width: int

    def __call__(self, image: np.ndarray, ids: np.ndarray, rng: np.random.Generator) -> Sample:
        """Pad."""
        missing = [(0, max(want - have, 0)) for have, want in zip(ids.shape, (self.height, self.width), strict=True)]
        padded = np.pad(image, [*missing, (0, 0)], constant_values=PAD_PIXEL)
        return padded, np.pad(ids, missing, constant_values=VOID)


@dataclass(frozen=True)
class HorizontalFlip:
    """Mirror every second image."""

    def __call__(self, image: np.ndarray, ids: np.ndarray, rng: np.random.Generator) -> Sample:
        """Flip or not."""
        return (image[:, ::-1], ids[:, ::-1]) if rng.random() < 0.5 else (image, ids)


@dataclass(frozen=True)
class ColorJitter:
    """Brightness, contrast, saturation and hue of the SSD detector (Liu et al., ECCV 2016), each in half of the images.

    Attributes:
        brightness: Largest shift in grey levels.
        contrast, saturation: Range of the factor.
        hue: Largest turn in units of two degrees.
    """

    brightness: int = 32
    contrast: tuple[float, float] = (0.5, 1.5)
    saturation: tuple[float, float] = (0.5, 1.5)
    hue: int = 18

    def __call__(self, image: np.ndarray, ids: np.ndarray, rng: np.random.Generator) -> Sample:
        """Change colours; contrast comes before or after saturation and hue."""
        out = image
        if rng.random() < 0.5:
            out = _linear(out, 1.0, rng.uniform(-self.brightness, self.brightness))
        contrast_first = rng.random() < 0.5
        for turn in (True, False):
            if turn == contrast_first:
                out = _linear(out, rng.uniform(*self.contrast), 0.0) if rng.random() < 0.5 else out
            else:
                out = self._saturation_and_hue(out, rng)
        return out, ids

    def _saturation_and_hue(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        import cv2

        factor = rng.uniform(*self.saturation) if rng.random() < 0.5 else 1.0
        turn = int(rng.integers(-self.hue, self.hue + 1)) if rng.random() < 0.5 else 0
        if factor == 1.0 and turn == 0:
            return image
        hsv = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2HSV).astype(np.float32)
        hsv[..., 0] = (hsv[..., 0] + turn) % 180
        hsv[..., 1] = (hsv[..., 1] * factor).clip(0, 255)
        changed: np.ndarray = cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB)
        return changed


def _linear(image: np.ndarray, factor: float, shift: float) -> np.ndarray:
    """Return ``image * factor + shift``, clipped to 0..255."""
    return (image.astype(np.float32) * factor + shift).clip(0, 255).astype(np.uint8)


def build_augmentations(cfg: CfgNode) -> list[Augmentation]:
    """Read the augmentations of ``INPUT``: those of SAN and MAFT+ (``semantic``) or of FC-CLIP (``panoptic_lsj``).

    Raises:
        ConfigError: A value is not allowed.
    """
    node = cfg.INPUT
    if node.RANDOM_FLIP not in ("horizontal", "none"):
        raise ConfigError(f"INPUT.RANDOM_FLIP is '{node.RANDOM_FLIP}'; expected horizontal or none")
    flip: list[Augmentation] = [HorizontalFlip()] if node.RANDOM_FLIP == "horizontal" else []
    if node.DATASET_MAPPER_NAME == "panoptic_lsj":
        side = node.IMAGE_SIZE
        return [*flip, ResizeScale(node.MIN_SCALE, node.MAX_SCALE, side), RandomCrop(side, side), PadTo(side, side)]
    if node.MIN_SIZE_TRAIN_SAMPLING not in ("choice", "range"):
        raise ConfigError(
            f"INPUT.MIN_SIZE_TRAIN_SAMPLING is '{node.MIN_SIZE_TRAIN_SAMPLING}'; expected choice or range"
        )
    sizes = node.MIN_SIZE_TRAIN if isinstance(node.MIN_SIZE_TRAIN, (list, tuple)) else (node.MIN_SIZE_TRAIN,)
    found: list[Augmentation] = [
        ResizeShortestEdge(tuple(sizes), node.MAX_SIZE_TRAIN, node.MIN_SIZE_TRAIN_SAMPLING == "range")
    ]
    pad: list[Augmentation] = []
    if node.CROP.ENABLED:
        if node.CROP.TYPE != "absolute":
            raise ConfigError(f"INPUT.CROP.TYPE is '{node.CROP.TYPE}'; expected absolute (SIZE in pixels)")
        size = [int(side) for side in node.CROP.SIZE]
        found.append(RandomCrop(*size))
        pad.append(PadTo(*size))
    if node.COLOR_AUG_SSD:
        found.append(ColorJitter())
    return [*found, *flip, *pad]
