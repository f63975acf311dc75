"""SimFeatUp and FeatUp: joint bilateral upsampling of features along an image, with learnt kernels.

Li et al., SegEarth-OV, CVPR 2025; github.com/likyoo/SegEarth-OV, simfeatup_dev/upsamplers.py; Fu et al., FeatUp, ICLR
2024. The kernels depend on the image alone and are the same for all channels, so any linear map of features may be
upsampled in their place: scores of a few words instead of hundreds of channels.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovseg.checkpoint.files import read_part
from ovseg.checkpoint.strict import load_strict
from ovseg.errors import WeightsError
from ovseg.refinement.neighbours import add_up, maps_at_once

STEPS = 4
FACTOR = 2**STEPS
"""Features become so many times as fine, whatever the patches of their tower."""
_PREFIX = "upsampler."
_HOW = (
    "take a file of simfeatup_dev/weights of github.com/likyoo/SegEarth-OV (made for CLIPs with 512 channels such as "
    "ViT-B/16), or set upsampler '' to resize the scores of patches"
)


class Kernels(nn.Module):
    """The learnt part of one step: for every pixel, weights of the pixels around it; names as in the original."""

    def __init__(self, radius: int, key_dim: int = 32) -> None:
        """Build it untrained.

        Args:
            radius: Of the square of pixels, without the pixel itself.
            key_dim: Length of the vectors by which colours are compared.
        """
        super().__init__()
        self.radius, side = radius, 2 * radius + 1
        self.range_temp, self.sigma_spatial = nn.Parameter(torch.tensor(0.0)), nn.Parameter(torch.tensor(1.0))
        self.range_proj = nn.Sequential(
            nn.Conv2d(3, key_dim, 1), nn.GELU(), nn.Dropout2d(0.1), nn.Conv2d(key_dim, key_dim, 1)
        )
        self.fixup_proj = nn.Sequential(
            nn.Conv2d(side**2 + 3, side**2, 1), nn.GELU(), nn.Dropout2d(0.1), nn.Conv2d(side**2, side**2, 1)
        )

    @property
    def offsets(self) -> list[tuple[int, int]]:
        """Rows and columns from a pixel to those around it, row by row."""
        reach = range(-self.radius, self.radius + 1)
        return [(dy, dx) for dy in reach for dx in reach]

    def forward(self, image: Tensor) -> Tensor:
        """Return weights (B, d * d, H, W) of the pixels of an image (B, 3, H, W), normalised; they sum to about 1."""
        both = self.by_colour(image) * self.by_distance()[:, None, None]
        both = both / both.sum(1, keepdim=True).clamp(min=1e-7)
        return both + 0.1 * self.fixup_proj(torch.cat([both, image], dim=1))

    def by_colour(self, image: Tensor) -> Tensor:
        """Return how alike the pixels around each are, (B, d * d, H, W): a softmax."""
        height, width = image.shape[2:]
        keys = self.range_proj(image)
        around = pad(keys, self.radius)
        near = [
            (around[:, :, top : top + height, left : left + width] * keys).sum(1)
            for top in range(2 * self.radius + 1)
            for left in range(2 * self.radius + 1)
        ]
        return (self.range_temp.exp().clamp(1e-4, 1e4) * torch.stack(near, dim=1)).softmax(1)

    def by_distance(self) -> Tensor:
        """Return how near the pixels around each are, (d * d,): a Gaussian, 1 for the pixel itself."""
        places = torch.linspace(-1, 1, 2 * self.radius + 1, device=self.sigma_spatial.device)
        apart = places.square()[:, None] + places.square()
        return (-apart / (2 * self.sigma_spatial**2)).exp().flatten()


class Upsampler(nn.Module):
    """Four steps, each to twice the size, and a residual 1 x 1 convolution of the channels behind them.

    Attributes:
        name: The file it was read from.
        channels: Of the features it was made for.
    """

    def __init__(self, channels: int, radius: int, key_dim: int = 32, shared: bool = True) -> None:
        """Build it untrained.

        Args:
            channels: Of the features.
            radius: See `Kernels`.
            key_dim: Likewise.
            shared: Whether all steps have the same weights (``jbu_one``) or each its own (``jbu_stack``).
        """
        super().__init__()
        self.name, self.channels, self.shared = type(self).__name__, channels, shared
        for name in ("up",) if shared else tuple(f"up{step}" for step in range(1, STEPS + 1)):
            self.add_module(name, Kernels(radius, key_dim))
        self.fixup_proj = nn.Sequential(nn.Dropout2d(0.2), nn.Conv2d(channels, channels, 1))

    @property
    def steps(self) -> list[Kernels]:
        """The steps in order."""
        found = (self.get_submodule("up" if self.shared else f"up{step}") for step in range(1, STEPS + 1))
        return [step for step in found if isinstance(step, Kernels)]

    @property
    def last(self) -> Any:
        """The last convolution."""
        return self.fixup_proj[1]

    def remark(self, grid: tuple[int, int]) -> str:
        """Say that features on a grid (h, w) are too small to be mirrored, see `pad`; empty where they are not."""
        if 2 * min(grid) > self.steps[0].radius:
            return ""
        return (
            f"windows of {grid[0]} x {grid[1]} patches are too small for the upsampler to mirror at their border "
            "as its authors do; it was repeated"
        )

    def kernels(self, image: Tensor, grid: tuple[int, int]) -> list[Tensor]:
        """Return the weights of each step for features on a grid (h, w) of an image (B, 3, H, W), normalised."""
        sizes = [(grid[0] << step, grid[1] << step) for step in range(1, STEPS + 1)]
        image = image.to(self.last.weight.dtype)
        return [step(F.adaptive_avg_pool2d(image, size)) for step, size in zip(self.steps, sizes, strict=True)]

    def mixed(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the last convolution makes of features (B, D, h, w): their linear map, alike, and a bias (D,)."""
        weight, bias = self.last.weight, self.last.bias
        return features + 0.1 * F.conv2d(features, weight), 0.1 * bias

    def spread(self, maps: Tensor, kernels: list[Tensor]) -> Tensor:
        """Upsample maps (B, C, h, w) by the weights of each step: (B, C, 16 h, 16 w); a few maps at a time."""
        parts = maps.split(maps_at_once(maps.device), dim=1)
        target = maps.new_empty(*maps.shape[:2], *kernels[-1].shape[2:])
        for part, place in zip(parts, target.split(maps_at_once(maps.device), dim=1), strict=True):
            for weights, step in zip(kernels, self.steps, strict=True):
                last = weights is kernels[-1]
                part = step_up(part, weights, step, place if last else None)
        return target


def step_up(maps: Tensor, weights: Tensor, step: Kernels, target: Tensor | None = None) -> Tensor:
    """Take one step with maps (B, C, h, w): bicubic to the size of the weights (B, d * d, H, W), then their sums.

    Args:
        maps: Float32.
        weights: Of the step.
        step: Says which pixels they are of.
        target: Where to write (B, C, H, W); None makes it.
    """
    height, width = weights.shape[2:]
    source = pad(F.interpolate(maps, (height, width), mode="bicubic", align_corners=False), step.radius)
    found = maps.new_empty(*maps.shape[:2], height, width) if target is None else target
    add_up(source, weights, step.offsets, found)
    return found


def pad(maps: Tensor, margin: int) -> Tensor:
    """Mirror maps (B, C, H, W) at their border; where they are too small to mirror, the border repeats (ours)."""
    mode = "reflect" if min(maps.shape[2:]) > margin else "replicate"
    return F.pad(maps, (margin,) * 4, mode=mode)


def load_upsampler(file: str | Path | Upsampler) -> Upsampler:
    """Load an upsampler of either kind; kind, radius and channels are read from the weights.

    Args:
        file: A checkpoint as Lightning writes it (``state_dict``, names below ``upsampler.``), or its tensors alone. An
            upsampler is returned as it is.

    Raises:
        WeightsError: The file is missing or unreadable, or its tensors are others; names them.
    """
    if isinstance(file, Upsampler):
        return file
    path = Path(os.path.expanduser(file))
    if not path.is_file():
        raise WeightsError(f"no upsampler at '{file}'; {_HOW}")
    return build_upsampler(read_part(path, "state_dict"), path.name, str(file))


def build_upsampler(state: Mapping[str, Tensor], source: str, name: str = "") -> Upsampler:
    """Build an upsampler from its tensors; see `load_upsampler`.

    Raises:
        WeightsError: They are others; names them.
    """
    own = {key.removeprefix(_PREFIX): value for key, value in state.items()}
    first = next((value for key, value in own.items() if re.fullmatch(r"up1?\.fixup_proj\.3\.weight", key)), None)
    keys, last = (
        next((value for key, value in own.items() if re.fullmatch(pattern, key)), None)
        for pattern in (r"up1?\.range_proj\.3\.weight", r"fixup_proj\.1\.weight")
    )
    if first is None or keys is None or last is None:
        raise WeightsError(f"{source} is no upsampler; expected up.* or up1.* and fixup_proj.1.*: {_HOW}")
    side = round(len(first) ** 0.5)
    if side**2 != len(first) or side % 2 == 0:
        raise WeightsError(f"{source} has kernels of {len(first)} pixels; expected an odd square, such as 121: {_HOW}")
    found = Upsampler(len(last), side // 2, len(keys), shared="up.range_temp" in own)
    load_strict(found, own, source, f"the upsampler of SegEarth-OV for {len(last)} channels")
    found.name = name or source
    return found.eval().requires_grad_(False)
