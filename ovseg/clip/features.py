"""What a dense pass of the frozen CLIP is asked for and what it returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import Self

from ovseg.clip.normalise import denormalise
from ovseg.clip.tokens import Block, TokenTower


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


class Kept:
    """Base of the data classes that a method keeps of a pass.

    Every field is a tensor (B, ...) or a list with something for each image, unless the class says what else `rows` is.
    """

    def rows(self, rows: slice) -> Self:
        """Return what is kept of some of the images."""
        part = object.__new__(type(self))
        vars(part).update({name: value[rows] for name, value in vars(self).items()})
        return part


Own = TypeVar("Own", bound=Kept)


@dataclass
class Context:
    """What a recalibration may look at besides the tokens.

    Attributes:
        grid: Patch rows and columns ``(h, w)``; the last ``h * w`` tokens are patches, row by row.
        images: Normalised input (B, 3, H, W).
        tower: The image-text model, for methods that need its head, its number of blocks or parts of its tokens.
        mean, std: By which the input was normalised, per channel of RGB in 0..1.
        regions: Region ids (B, H, W) int64 of the pixels, negative where there is none; None if there are no regions.
        hidden: Recorded tokens (B, N, C) by block index (never negative).
        attention: Recorded attention (B, heads, N, N) by block index.
        own: What a method keeps from one of its hooks to the next, by type; see `keep`.
    """

    grid: tuple[int, int]
    images: Tensor
    tower: TokenTower
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    regions: Tensor | None = None
    hidden: dict[int, Tensor] = field(default_factory=dict)
    attention: dict[int, Tensor] = field(default_factory=dict)
    own: dict[type[Kept], Kept] = field(default_factory=dict)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "tower": None}  # the model is no part of what it saw; see `DenseFeatures.at`

    @property
    def blocks(self) -> Sequence[Block]:
        """The blocks of the tower, for tokens on this grid."""
        return self.tower.blocks_on(self.grid)

    @property
    def rgb(self) -> Tensor:
        """The input (B, 3, H, W) as RGB in 0..1, float32; what a second backbone normalises in its own way."""
        return denormalise(self.images.float(), self.mean, self.std)

    def keep(self, value: Own) -> Own:
        """Keep a value of a type of the method's own for as long as the features live.

        Only what encodes may do so: what compares with words may run for several requests at once (see `keeping`).
        """
        self.own[type(value)] = value
        return value

    def kept(self, kind: type[Own], otherwise: Own | None = None) -> Own:
        """Return the value of a type that was kept, or another where none was."""
        found: Any = self.own[kind] if otherwise is None else self.own.get(kind, otherwise)
        return found

    def take(self, kind: type[Own]) -> Own:
        """Return the value of a type that was kept, and forget it: what only `joint` needs lives no longer."""
        found: Any = self.own.pop(kind)
        return found

    def keeping(self, value: Kept) -> Context:
        """Return a context that also keeps a value, and leave this one as it is."""
        return replace(self, own={**self.own, type(value): value})

    def lay_out(self, tokens: Tensor) -> Tensor:
        """Lay the patches of all tokens (B, N, C) out on the grid: (B, C, h, w)."""
        return self.tower.split(tokens)[1].mT.unflatten(-1, self.grid)


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

    def at(self, tower: TokenTower) -> DenseFeatures:
        """Return the same with the tower that made it, which features have not that come out of a pickle."""
        return replace(self, context=replace(self.context, tower=tower))

    def keeping(self, value: Kept) -> DenseFeatures:
        """Return the same with a context that also keeps a value; see `Context.keeping`."""
        return replace(self, context=self.context.keeping(value))

    def rows(self, rows: slice) -> DenseFeatures:
        """Return the features of some of the images of the batch."""
        context = self.context
        part = replace(
            context,
            images=context.images[rows],
            regions=None if context.regions is None else context.regions[rows],
            hidden={index: tokens[rows] for index, tokens in context.hidden.items()},
            attention={index: weights[rows] for index, weights in context.attention.items()},
            own={kind: value.rows(rows) for kind, value in context.own.items()},
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


class Recalibrator(Protocol):
    """What the frozen CLIP asks of a recalibration; `ovseg.recalibration.Recalibration` is the base class of all."""

    pos_resize: str
    requires: frozenset[str]
    own_values: bool

    @property
    def name(self) -> str:
        """What to call it in messages."""
        ...

    def fitting(self, has: frozenset[str]) -> list[str]:
        """The methods that a tower fits which has these of `ovseg.clip.tokens`."""
        ...

    def check_tower(self, tower: TokenTower) -> None:
        """Refuse a tower for reasons of its own."""
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
