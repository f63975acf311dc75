"""A CLIP with a vision transformer, which gives dense features with its last blocks handed to a recalibration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ovseg.clip.base import BaseClip
from ovseg.clip.open_clip_internals import ViTTower, check_config
from ovseg.clip.tokens import CLASS_EMBEDDING, Block


class ViTClip(BaseClip):
    """A CLIP whose image tower is a vision transformer of open_clip's own.

    Attributes:
        tower: The image tower.
    """

    tower: ViTTower
    check_config = staticmethod(check_config)

    @staticmethod
    def tower_of(visual: Any) -> ViTTower:
        """Adapt the image tower; see `BaseClip.tower_of`."""
        return ViTTower(visual)

    @property
    def has(self) -> frozenset[str]:
        """What methods may need of it."""
        return self.tower.has

    @property
    def recipe(self) -> str:
        """How its dense features come about; see `Tower.recipe`."""
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
    def position_table(self) -> Tensor:
        """CLIP's own position embeddings (1 + g_h * g_w, C), class token first."""
        return self.tower.visual.positional_embedding

    def embed(
        self, images: Tensor, rule: str, table: Tensor | None = None, rounding: torch.dtype | None = None
    ) -> tuple[Tensor, tuple[int, int]]:
        """Return the tokens (B, 1 + h * w, C) that enter the first block, and the grid; see `Tower.embed`."""
        return self.tower.embed(images, rule, table, rounding)

    def patches_to_joint(self, tokens: Tensor) -> Tensor:
        """Project tokens (B, N, C), each by itself, to the joint space (B, N, D)."""
        return self.tower.patches_to_joint(tokens)

    def head(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return all tokens in the joint space and the embedding of the image; see `Tower.head`."""
        return self.tower.head(tokens)

    def linear_head(self) -> tuple[nn.LayerNorm, Tensor]:
        """Return the last norm and the projection (C, D) behind it."""
        return self.tower.linear_head()

    def pack(self) -> None:
        """Lay the weights of the blocks out for the CPU, those of the attention too."""
        for block in self.tower.blocks:
            block.pack_attention()
        super().pack()
