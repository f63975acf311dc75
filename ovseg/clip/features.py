"""What a dense pass of the frozen CLIP is asked for and what it returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from ovseg.clip.open_clip_internals import Block, VisualTower


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
        tower: The image tower, for methods that need its head or its number of blocks.
        mean, std: By which the input was normalised, per channel of RGB in 0..1.
        regions: Region ids (B, H, W) int64 of the pixels, negative where there is none; None if there are no regions.
        hidden: Recorded tokens (B, N, C) by block index (never negative).
        attention: Recorded attention (B, heads, N, N) by block index.
        stash: Whatever a method keeps from one of its hooks to the next.
    """

    grid: tuple[int, int]
    images: Tensor
    tower: VisualTower
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    regions: Tensor | None = None
    hidden: dict[int, Tensor] = field(default_factory=dict)
    attention: dict[int, Tensor] = field(default_factory=dict)
    stash: dict[str, Any] = field(default_factory=dict)

    @property
    def rgb(self) -> Tensor:
        """The input (B, 3, H, W) as RGB in 0..1, float32; what a second backbone normalises in its own way."""
        mean, std = (torch.tensor(x, device=self.images.device).view(3, 1, 1) for x in (self.mean, self.std))
        return self.images.float() * std + mean


@dataclass
class DenseFeatures:
    """Dense features of one batch.

    Attributes:
        features: Patch features (B, C, h, w) in the joint space of image and text, not of unit length.
        cls: Embedding (B, C) of the whole image from the same pass, not of unit length.
        grid: Rows and columns of the features; some methods give them on a finer grid than that of the patches.
        context: What was recorded.
    """

    features: Tensor
    cls: Tensor
    grid: tuple[int, int]
    context: Context

    def rows(self, rows: slice) -> DenseFeatures:
        """Return the features of some of the images of the batch."""
        count, context = len(self.cls), self.context
        part = replace(
            context,
            images=context.images[rows],
            regions=_rows(context.regions, count, rows),
            hidden=_rows(context.hidden, count, rows),
            attention=_rows(context.attention, count, rows),
            stash=_rows(context.stash, count, rows),
        )
        return DenseFeatures(self.features[rows], self.cls[rows], self.grid, part)

    def cosines(self, text_embeddings: Tensor) -> Tensor:
        """Return the cosine of every patch and every text (B, T, h, w) in float32.

        Args:
            text_embeddings: Unit rows (T, C), or (B, T, C) where every image has its own. Rows of another length
                scale their scores, which some ways of mixing texts are meant to do.
        """
        texts = text_embeddings.to(self.features.device, torch.float32)
        patches = F.normalize(self.features.float(), dim=1)
        return (texts @ patches.flatten(2)).unflatten(2, self.grid)


def _rows(value: Any, count: int, rows: slice) -> Any:
    """Return the part of something that belongs to some images of a batch of ``count``."""
    if isinstance(value, Tensor):
        return value[rows] if value.ndim and len(value) == count else value
    if isinstance(value, DenseFeatures):  # windows of the images
        each = len(value.cls) // count
        return value.rows(slice(rows.start * each, rows.stop * each))
    if isinstance(value, dict):
        return {key: _rows(own, count, rows) for key, own in value.items()}
    if isinstance(value, list) and all(isinstance(own, Tensor) and len(own) == count for own in value):
        return [own[rows] for own in value]  # one for each layer
    if isinstance(value, list):
        return value[rows]  # one for each image
    return tuple(_rows(own, count, rows) for own in value) if type(value) is tuple else value


class Recalibrator(Protocol):
    """What the frozen CLIP asks of a recalibration; `ovseg.recalibration.Recalibration` is the base class of all."""

    pos_resize: str

    @property
    def name(self) -> str:
        """What to call it in messages."""
        ...

    def blocks_of(self, depth: int) -> int:
        """How many of the last blocks it takes over."""
        ...

    def needs_of(self, depth: int) -> Need:
        """What it wants recorded of the blocks before them."""
        ...

    def run(self, tokens: Tensor, blocks: Sequence[Block], context: Context) -> Tensor:
        """Take the tokens (B, N, C) through the handed-over blocks."""
        ...

    def joint(self, tokens: Tensor, context: Context) -> DenseFeatures:
        """Bring what `run` returned to the joint space of image and text."""
        ...
