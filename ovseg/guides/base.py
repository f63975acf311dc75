"""What a guide is, and how one is named: ``KIND`` or ``KIND:ARGUMENT``, such as ``timm:vit_base_patch8_224.dino``."""

from __future__ import annotations

from collections.abc import Callable

import torch
from detectron2.utils.registry import Registry
from torch import Tensor, nn

from ovseg.clip.features import Context, Need
from ovseg.errors import ConfigError
from ovseg.system.registry import Kind, find

GUIDE_REGISTRY = Registry("GUIDE")
GUIDE_REGISTRY.__doc__ = "Functions from an argument (the text behind the colon) and a facet to a `Guide`, by kind."

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FACETS = ("token", "query", "key", "value", "query+key")


class Guide(nn.Module):
    """Dense features that say which pixels belong together; frozen.

    Attributes:
        name: By which it was built, such as ``clip:0.5``; that of the class where it was not built by name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.name = type(self).__name__

    def needs_of(self, depth: int) -> Need:
        """Return what it wants recorded of the blocks of a CLIP of this depth; nothing unless it reads CLIP itself."""
        return Need()

    def forward(self, context: Context) -> Tensor:
        """Return features (B, C, h, w), not of unit length and on any grid, of the images of a pass."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> Guide:
        """Stay in evaluation mode, whatever the model around it does."""
        return super().train(False)


GUIDES: Kind[Callable[[str, str], Guide]] = Kind("guide", GUIDE_REGISTRY)


def build_guide(name: str | Guide, facet: str = "token") -> Guide:
    """Build a guide by name.

    Args:
        name: ``KIND`` or ``KIND:ARGUMENT``; a `Guide` is returned as it is.
        facet: What to take of the backbone's last block: its output tokens (``token``), or its ``query``, ``key``,
            ``value``, or ``query+key``, heads joined.

    Raises:
        UnknownNameError: No such kind.
        ConfigError: The facet or the argument is not allowed.
        WeightsError: Its weights cannot be had.
    """
    if isinstance(name, Guide):
        return name
    if facet not in FACETS:
        raise ConfigError(f"guide facet is '{facet}'; expected one of {', '.join(FACETS)}")
    kind, _, argument = name.partition(":")
    guide = find(GUIDES, kind)(argument, facet)
    guide.name = name
    return guide.eval().requires_grad_(False)


def standardise(rgb: Tensor, mean: tuple[float, ...] = IMAGENET_MEAN, std: tuple[float, ...] = IMAGENET_STD) -> Tensor:
    """Bring images (B, 3, H, W) in 0..1 to the mean and deviation per channel that a backbone was trained with."""
    centre, spread = (torch.tensor(x, device=rgb.device, dtype=rgb.dtype).view(3, 1, 1) for x in (mean, std))
    return (rgb - centre) / spread


def join_heads(heads: Tensor, grid: tuple[int, int]) -> Tensor:
    """Lay the patches of per-head vectors (B, heads, 1 + h * w, d) out as features (B, heads * d, h, w)."""
    return heads[:, :, 1:].transpose(1, 2).flatten(2).mT.unflatten(-1, grid)


def unit_patches(features: Tensor) -> Tensor:
    """Return unit vectors (B, h * w, C) in float32 of features (B, C, h, w)."""
    return torch.nn.functional.normalize(features.float().flatten(2).mT, dim=-1)
