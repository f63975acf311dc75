"""A CLIP with a vision transformer, which gives dense features with its last blocks handed to a recalibration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ovseg.clip.base import BaseClip
from ovseg.clip.open_clip_internals import adapt, check_config
from ovseg.clip.open_clip_vit import ViTTower
from ovseg.clip.timm_vit import TimmTower
from ovseg.clip.tokens import CLASS_EMBEDDING, POSITIONS, Block


class ViTClip(BaseClip):
    """A CLIP of open_clip whose image tower is a vision transformer, of its own or of timm.

    Attributes:
        tower: The image tower.
    """

    tower: ViTTower | TimmTower
    check_config = staticmethod(check_config)

    @staticmethod
    def tower_of(model: Any) -> ViTTower | TimmTower:
        """Adapt the image tower; see `BaseClip.tower_of`."""
        return adapt(model.visual)

    @property
    def has(self) -> frozenset[str]:
        """What methods may need of it."""
        return self.tower.has

    @property
    def recipe(self) -> str:
        """How its dense features come about; see `Tower.recipe`."""
        if self.tower.pools:
            return (
                "every patch goes through values, projection and all else of the attention that pools, as if that "
                "looked at it alone (as MaskCLIP, arXiv 2112.01071, has it for CLIP's ResNet)"
            )
        pooled = "the class token" if CLASS_EMBEDDING in self.has else "the mean of the patches"
        return (
            f"every patch goes through the last norm and the projection, as {pooled} does in the tower's own pooling "
            "(MaskCLIP, arXiv 2112.01071)"
        )

    @property
    def body(self) -> list[nn.Module]:
        """The modules of the blocks."""
        return self.tower.body

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        return self.tower.patch_size

    @property
    def image_size(self) -> int:
        """Side of the images CLIP was trained with, in pixels."""
        return self.tower.image_size

    @property
    def width(self) -> int:
        """Channels of the tokens."""
        return self.tower.width

    @property
    def blocks(self) -> Sequence[Block]:
        """The blocks of the image tower."""
        return self.tower.blocks

    @property
    def prefix(self) -> int:
        """Number of leading tokens, which belong to no place."""
        return self.tower.prefix

    def blocks_on(self, grid: tuple[int, int]) -> Sequence[Block]:
        """Return the blocks for patches on a grid; see `Tower.blocks_on`."""
        return self.tower.blocks_on(grid)

    @property
    def position_table(self) -> Tensor:
        """Its own position embeddings (P' + g_h * g_w, C), those of leading tokens first if they have any."""
        if POSITIONS not in self.has:
            raise self._lacks(POSITIONS, "a model that trains position embeddings")
        return self.tower.position_table

    def embed(
        self, images: Tensor, rule: str, table: Tensor | None = None, rounding: torch.dtype | None = None
    ) -> tuple[Tensor, tuple[int, int]]:
        """Return the tokens (B, P + h * w, C) that enter the first block, and the grid; see `Tower.embed`."""
        return self.tower.embed(images, rule, table, rounding)

    def patches_to_joint(self, tokens: Tensor) -> Tensor:
        """Project tokens (B, N, C), each by itself, to the joint space (B, N, D)."""
        return self.tower.patches_to_joint(tokens)

    def head(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return all tokens in the joint space and the embedding of the image; see `Tower.head`."""
        return self.tower.head(tokens)

    def linear_head(self) -> tuple[nn.LayerNorm, Tensor, Tensor]:
        """Return the last norm, and matrix (C, D) and bias (D,) of the projection behind it."""
        return self.tower.linear_head()

    def pack(self) -> None:
        """Lay the weights of the blocks out for the CPU, those of the attention too."""
        self.tower.pack_attention()
        super().pack()
