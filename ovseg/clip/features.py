"""What a dense pass of the frozen CLIP is asked for and what it returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from ovseg.clip.open_clip_internals import Block


@dataclass(frozen=True)
class Need:
    """What to record of the blocks that run as they are; indices as in Python, so ``-1`` is the last block of CLIP.

    Attributes:
        hidden: Blocks whose leaving tokens (B, N, C) are kept.
        attention: Blocks whose attention weights (B, heads, N, N) are kept; only these blocks compute them explicitly.
    """

    hidden: tuple[int, ...] = ()
    attention: tuple[int, ...] = ()

    def __or__(self, other: Need) -> Need:
        """Return the union of two needs."""
        return Need(self.hidden + other.hidden, self.attention + other.attention)


@dataclass
class Context:
    """What a recalibration may look at besides the tokens.

    Attributes:
        grid: Patch rows and columns ``(h, w)``; the tokens are the class token and then ``h * w`` patches row by row.
        images: Normalised input (B, 3, H, W).
        hidden: Recorded tokens (B, N, C) by block index (never negative).
        attention: Recorded attention (B, heads, N, N) by block index.
        stash: Whatever a method keeps from one of its hooks to the next.
    """

    grid: tuple[int, int]
    images: Tensor
    hidden: dict[int, Tensor] = field(default_factory=dict)
    attention: dict[int, Tensor] = field(default_factory=dict)
    stash: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class DenseFeatures:
    """Dense features of one batch.

    Attributes:
        features: Patch features (B, C, h, w) in the joint space of image and text, not of unit length.
        cls: Embedding (B, C) of the whole image from the same pass, not of unit length.
        grid: Patch rows and columns.
        context: What was recorded.
    """

    features: Tensor
    cls: Tensor
    grid: tuple[int, int]
    context: Context

    def cosines(self, text_embeddings: Tensor) -> Tensor:
        """Return the cosine of every patch and every text (B, T, h, w) in float32.

        Args:
            text_embeddings: Rows (T, C) of any length; they are normalised here.
        """
        texts = F.normalize(text_embeddings.to(self.features.device, torch.float32), dim=-1)
        patches = F.normalize(self.features.float(), dim=1)
        return torch.einsum("bchw,tc->bthw", patches, texts)


class Recalibrator(Protocol):
    """What the frozen CLIP asks of a recalibration; `ovseg.recalibration.Recalibration` is the base class of all."""

    blocks: int
    pos_resize: str
    needs: Need

    @property
    def name(self) -> str:
        """What to call it in messages."""
        ...

    def run(self, tokens: Tensor, blocks: Sequence[Block], context: Context) -> Tensor:
        """Take the tokens (B, N, C) through the handed-over blocks."""
        ...
