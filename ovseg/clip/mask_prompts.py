"""Mask prompts: learned tokens that take the place of the patches of a crop that its mask does not touch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovseg.checkpoint.files import read_part
from ovseg.checkpoint.strict import load_strict
from ovseg.clip.open_clip_vit import ViTTower
from ovseg.clip.tokens import CLASS_EMBEDDING
from ovseg.clip.tower import Tower
from ovseg.clip.vit_clip import ViTClip
from ovseg.errors import ConfigError, InputError

EMBEDDING = "embedding"
"""The name of the one tensor of a file of mask prompts."""


class MaskPrompts(nn.Module):
    """Mask prompt tuning of a frozen vision transformer (Liang et al., CVPR 2023, arXiv 2210.04150).

    Attributes:
        embedding: (depth, g * g, C): of the tokens that enter the transformer, and behind each of its first blocks.
    """

    def __init__(self, patches: int, width: int, depth: int = 3) -> None:
        """Start with zeros, as the original does where it does not train.

        Args:
            patches: Of the square images that the CLIP was trained on.
            width: Channels of its tokens.
            depth: Of the prompts; 0 for none, and then masks do not matter.

        Raises:
            ConfigError: The depth is negative.
        """
        super().__init__()
        if depth < 0:
            raise ConfigError(f"mask prompts have depth {depth}; expected 0 (none) or more")
        self.embedding = nn.Parameter(torch.zeros(depth, patches, width))

    @classmethod
    def for_clip(cls, clip: Tower, depth: int = 3) -> MaskPrompts:
        """Make those that fit a CLIP.

        Raises:
            ConfigError: The CLIP is no vision transformer of open_clip with a class token, or has fewer blocks.
        """
        tower = _vit(clip)
        if depth > clip.depth:
            raise ConfigError(f"mask prompts have depth {depth}; expected at most the {clip.depth} blocks of the CLIP")
        return cls((tower.image_size // tower.patch_size) ** 2, tower.width, depth)

    @classmethod
    def read(cls, path: str | Path, clip: Tower) -> MaskPrompts:
        """Read a file of ``tools/train_mask_adapted.py``: one tensor, ``embedding`` (depth, g * g, C).

        Raises:
            ConfigError: The CLIP cannot have mask prompts.
            WeightsError: The file is missing, holds something else, or is of another CLIP.
        """
        return cls.of(read_part(path, "model"), Path(path).name, clip)

    @classmethod
    def of(cls, state: Mapping[str, Tensor], source: str, clip: Tower) -> MaskPrompts:
        """Make those of a file that is called so; errors as of `read`."""
        found = cls.for_clip(clip, len(state[EMBEDDING]) if EMBEDDING in state else 0)
        load_strict(found, state, source, "mask prompts")
        return found

    @property
    def depth(self) -> int:
        """How often patches are replaced."""
        return len(self.embedding)

    def forward(self, clip: Tower, crops: Tensor, masks: Tensor | None = None) -> Tensor:
        """Embed crops, those patches replaced that their masks do not touch.

        Args:
            clip: A CLIP with a vision transformer.
            crops: Normalised (N, 3, S, S), S the side of the images that CLIP was trained on; N may be 0.
            masks: (N, 1, S, S), 0 outside of a mask; None embeds the crops as CLIP does.

        Returns:
            (N, D), not of unit length.

        Raises:
            ConfigError: The CLIP is no vision transformer of open_clip with a class token.
            InputError: The crops have another size.
        """
        tower = _vit(clip)
        if not len(crops):
            return crops.new_zeros(0, clip.embed_dim)
        patches = tower.patches(crops)
        grid = (patches.shape[2], patches.shape[3])
        tokens = patches.flatten(2).mT
        keep = None if masks is None or not self.depth else kept_patches(masks, tower.patch_size)[..., None]
        if keep is not None:
            if keep.shape[1] != self.embedding.shape[1] or keep.shape[1] != tokens.shape[1]:
                raise InputError(
                    f"got crops of {tokens.shape[1]} patches and masks of {keep.shape[1]}; expected "
                    f"{self.embedding.shape[1]} of both, as many as there are mask prompts"
                )
            tokens = torch.where(keep, tokens, self.embedding[0].to(tokens))
        tokens = tower.enter(tokens, grid, "bicubic_by_grid")
        for number, block in enumerate(clip.blocks_on(grid), start=1):
            tokens = block(tokens)
            if keep is not None and number < self.depth:
                cls, rest = clip.class_and_rest(tokens)
                tokens = torch.cat([cls, torch.where(keep, rest, self.embedding[number].to(rest))], 1)
        return clip.patches_to_joint(clip.class_and_rest(tokens)[0])[:, 0]


def kept_patches(masks: Tensor, patch: int) -> Tensor:
    """Return which patches (N, g * g) of masks (N, 1, S, S) have a pixel that is not 0."""
    return F.max_pool2d(masks.float(), patch).flatten(1) > 0


def _vit(clip: Tower) -> ViTTower:
    """Return the transformer of a CLIP, or refuse it."""
    tower = clip.tower if isinstance(clip, ViTClip) else None
    if not isinstance(tower, ViTTower) or CLASS_EMBEDDING not in clip.has:
        raise ConfigError(
            f"mask prompts stand among the patches of a vision transformer with a class token, and {clip.name} is "
            "none of open_clip's; expected a ViT like mini, ViT-B-16 or ViT-L-14"
        )
    return tower
