"""What a method may ask of an image-text model; what a model has not, it refuses in one sentence.

The tokens of a tower lie in one sequence (B, P + h * w, C): P leading tokens, then the patches row by row. Where there
is a class token, it is the first of the leading ones; the others (registers) belong to no place. Methods never count
them: they ask for the part they want.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovseg.errors import ConfigError
from ovseg.ops.linear_layers import lower_products, pack_linears
from ovseg.vocabulary.queries import Queries

DENSE = "dense features in the joint space of image and text"
STREAM = "tokens of patches that pass through residual blocks"
ATTENTION = "the queries, keys and values of its blocks"
CLASS_TOKEN = "a class token"
CLASS_EMBEDDING = "a class token that becomes its embedding of an image"
HEADS_ADD = "attention that is a sum over its heads"
POSITIONS = "a table of position embeddings"
LEVELS = "levels of feature maps"
FITTING = {
    DENSE: "a vision transformer, ConvNeXt or ResNet such as ViT-B-16, convnext_large_d_320 or RN50",
    STREAM: "a vision transformer such as ViT-B-16, EVA02-B-16 or ViT-B-16-SigLIP2",
    ATTENTION: "a vision transformer such as ViT-B-16, EVA02-B-16 or ViT-B-16-SigLIP2",
    CLASS_TOKEN: "a vision transformer with one, such as ViT-B-16, EVA02-B-16 or PE-Core-B-16",
    CLASS_EMBEDDING: "one that pools by its class token, such as ViT-B-16, EVA02-B-16 or any ViT of OpenAI's",
    HEADS_ADD: "one without norms behind its heads, such as ViT-B-16, EVA01-g-14 or any ViT of OpenAI's",
    POSITIONS: "one that learns where patches lie, such as ViT-B-16, EVA02-B-16 or ViT-B-16-SigLIP2",
    LEVELS: "a ConvNeXt or ResNet such as convnext_large_d_320 or RN50, or a ViT in FC-CLIP (MODEL.FCCLIP.VIT)",
}
"""What a tower may have, and which ones do."""

Fitting = Callable[[frozenset[str]], Sequence[str]]
"""Gives the names of the methods that a tower fits which has these."""


def lacking(
    needs: Collection[str], has: frozenset[str], who: str, tower: str, fitting: Fitting | None = None
) -> ConfigError | None:
    """Return the error of a method that needs what a tower has not; None where it has all; see `Tower.check`."""
    absent = [need for need in FITTING if need in needs and need not in has]  # a form that torch.compile of 2.4 knows
    if not absent:
        return None
    need = absent[0]
    methods = fitting(has) if fitting else ()
    other = f", or what runs on this one: {', '.join(methods)}" if methods else ""
    return ConfigError(f"{who} needs {need}, which {tower} has not; use {FITTING[need]}{other}")


class Block(ABC):
    """A residual block of attention and a feed-forward half, as operations that a method puts together anew.

    Attributes:
        heads: Number of attention heads.
        scale: ``head_dim ** -0.5``, what the scores of q and k are multiplied with.
    """

    heads: int
    scale: float

    @property
    def placeless(self) -> Block:
        """The same block for tokens that belong to no place, such as copies of the class token, and for no others."""
        return self

    @abstractmethod
    def norm(self, tokens: Tensor) -> Tensor:
        """Return the tokens (B, N, C) as the attention sees them, after the first norm."""

    @abstractmethod
    def qkv(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values, each (B, heads, N, d), of tokens (B, N, C); the first norm is inside."""

    @abstractmethod
    def project(self, heads: Tensor) -> Tensor:
        """Join heads (B, heads, N, d) to what attention adds to the tokens (B, N, C)."""

    @abstractmethod
    def second_norm(self, tokens: Tensor) -> Tensor:
        """Return the tokens (B, N, C) as the feed-forward half sees them."""

    @abstractmethod
    def feed_forward(self, tokens: Tensor) -> Tensor:
        """Return what the feed-forward half adds to tokens (B, N, C)."""

    def __call__(self, tokens: Tensor) -> Tensor:
        """Run the block as CLIP has it: (B, N, C) to (B, N, C)."""
        tokens = tokens + self.project(F.scaled_dot_product_attention(*self.qkv(tokens)))
        return tokens + self.feed_forward(tokens)

    def with_attention(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Run the block and return also its attention weights (B, heads, N, N)."""
        query, key, value = self.qkv(tokens)
        weights = (query @ key.mT * self.scale).softmax(-1)
        tokens = tokens + self.project(weights @ value)
        return tokens + self.feed_forward(tokens), weights


class TokenTower(nn.Module):
    """An image-text model as far as its tokens go: every one has the first group, those with `STREAM` the second.

    Attributes:
        name: Such as ``"ViT-B-16/openai"``.
        weights_hash: Changes with the weights and with what gives them meaning.
        embed_dim: Dimension of the joint space of image and text.
        logit_scale: Factor (not its logarithm) that it was trained with between cosines and logits.
        logit_bias: What it was trained to add to them, for a sigmoid of each (SigLIP); 0 where a softmax over texts was
            the loss. It is the same for all texts, so no label, softmax or order of scores depends on it.
        mean, std: Per channel of RGB images in 0..1, with which inputs are normalised.
        precision: In which the products of the body are computed; float32 is whatever the context around it says.
        notes: What results should say of how it was read, such as an activation that had to be assumed.
    """

    name: str
    weights_hash: str
    embed_dim: int
    logit_scale: float
    logit_bias: float = 0.0
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    precision: torch.dtype = torch.float32
    notes: tuple[str, ...] = ()

    @property
    def activation(self) -> str:
        """Activation of its feed-forward networks, where the same weights may be run with several; else empty."""
        return ""

    @property
    def has(self) -> frozenset[str]:
        """What it has of the names above, `DENSE` to `LEVELS`."""
        return frozenset()

    @property
    def recipe(self) -> str:
        """How its dense features come about, and from where that way is, in one sentence; docs/towers.md shows it."""
        return ""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights."""
        return next(self.parameters()).dtype

    @property
    def body(self) -> list[nn.Module]:
        """The modules that do most of the work on images: blocks, or what makes the levels."""
        return []

    def text(self, texts: list[str]) -> Tensor:
        """Embed texts: (N, D), not of unit length, in the dtype and on the device of the model."""
        raise NotImplementedError

    def move_text(self, device: torch.device) -> None:
        """Bring what embeds texts to a device, and leave the rest; a tower whose text part cannot go alone stays."""

    def weigh(self, queries: Queries, embed: Callable[[list[str]], Tensor]) -> Queries:
        """Return the words of a request as the tower compares images with them; ordinarily they are as they were.

        Args:
            queries: With unit rows (T, D).
            embed: Embeds sentences as they are: unit rows (N, D).
        """
        return queries

    def lower(self, precision: torch.dtype) -> None:
        """Keep the weights of the body's products in bfloat16 or float16; whoever runs blocks does so in `autocast`."""
        lower_products(self.body, precision)
        self.precision = precision

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context for products in `precision`."""
        low = self.precision != torch.float32
        return torch.autocast(self.device.type, self.precision) if low else nullcontext()

    def pack(self) -> None:
        """Lay the weights of the body out for the CPU; see `ovseg.ops.linear_layers.PackedLinear`.

        Raises:
            EnvironmentProblem: They cannot be packed here.
        """
        pack_linears(self.body)

    def check(self, needs: Collection[str], who: str, fitting: Fitting | None = None) -> None:
        """Refuse a method or model that needs what this tower has not.

        Args:
            needs: Of the names that `has` lists.
            who: What to call the method.
            fitting: Gives what else could run on this tower.

        Raises:
            ConfigError: The first thing that it lacks, towers that have it, and methods that fit this one.
        """
        if found := lacking(needs, self.has, who, self.name, fitting):
            raise found

    def _lacks(self, need: str, who: str) -> ConfigError:
        return ConfigError(f"{who} needs {need}, which {self.name} has not; use {FITTING[need]}")

    # With DENSE.

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels, or of what one feature stands for."""
        raise self._lacks(DENSE, "a method that looks at places")

    def dense_map(self, images: Tensor, rule: str, own_values: bool) -> tuple[Tensor, Tensor]:
        """Return what a tower without `STREAM` makes of images (B, 3, H, W); sides are floored to `patch_size`.

        Args:
            images: Normalised.
            rule: Of `ovseg.clip.position`, by which position embeddings are resized.
            own_values: Where attention pools the image, whether each place keeps its own value (MaskCLIP) instead of
                looking at all places as the pool does.

        Returns:
            Features (B, D, h, w) in the joint space, and the embedding (B, D) of the image by the tower's own pooling.
        """
        raise self._lacks(DENSE, "a method that looks at places")

    # With STREAM.

    @property
    def width(self) -> int:
        """Channels of the tokens."""
        raise self._lacks(STREAM, "a method that looks at tokens")

    @property
    def blocks(self) -> Sequence[Block]:
        """The blocks of the image tower, as far as they do not depend on where patches lie; see `blocks_on`."""
        raise self._lacks(STREAM, "a method that changes blocks")

    def blocks_on(self, grid: tuple[int, int]) -> Sequence[Block]:
        """Return the blocks for tokens whose patches lie on a grid (h, w): what runs.

        They differ from `blocks` where a tower turns queries and keys by their places (rotary positions).
        """
        return self.blocks

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    @property
    def prefix(self) -> int:
        """Number of leading tokens, which belong to no place."""
        return int(CLASS_TOKEN in self.has)

    @property
    def position_table(self) -> Tensor:
        """Its own position embeddings, what ``table`` of `embed` may take the place of; with `POSITIONS`."""
        raise self._lacks(POSITIONS, "a model that trains position embeddings")

    def embed(
        self, images: Tensor, rule: str, table: Tensor | None = None, rounding: torch.dtype | None = None
    ) -> tuple[Tensor, tuple[int, int]]:
        """Return the tokens (B, P + h * w, C) that enter the first block, and the grid (h, w); sides are floored.

        Args:
            images: Normalised (B, 3, H, W).
            rule: Of `ovseg.clip.position`, by which position embeddings are resized.
            table: Takes the place of the tower's own position embeddings, for models that train them.
            rounding: Dtype that resized position embeddings are rounded to on their way.
        """
        raise self._lacks(STREAM, "a method that looks at patches")

    def patches_to_joint(self, tokens: Tensor) -> Tensor:
        """Bring patches (B, M, C) to the joint space (B, M, D), each by itself; also class tokens that become it."""
        raise self._lacks(STREAM, "a method that looks at patches")

    def head(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Bring what left the last block, (B, P + M, C), to the joint space.

        Returns:
            All tokens (B, P + M, D), and the embedding (B, D) of the image by the tower's own pooling.
        """
        raise self._lacks(STREAM, "a method that looks at patches")

    def linear_head(self) -> tuple[nn.LayerNorm, Tensor, Tensor]:
        """Return what brings the class token to the joint space, with `HEADS_ADD`: norm, matrix (C, D), bias (D,)."""
        raise self._lacks(HEADS_ADD, "a method that takes embeddings apart")

    def split(self, tokens: Tensor) -> tuple[Tensor | None, Tensor]:
        """Return the class token (..., 1, C), None where there is none, and the patches (..., M, C) of all tokens."""
        cls = tokens[..., :1, :] if CLASS_TOKEN in self.has else None
        return cls, tokens[..., self.prefix :, :]

    def class_and_rest(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the class token (..., 1, C) and all that follows it, for methods that need one.

        Raises:
            ConfigError: There is none.
        """
        self.check({CLASS_TOKEN}, "a method that looks at class tokens")
        return tokens[..., :1, :], tokens[..., 1:, :]

    def leading(self, tokens: Tensor) -> Tensor:
        """Return the tokens (..., P, C) before the patches; behind them, patches on any grid make a sequence again."""
        return tokens[..., : self.prefix, :]

    def patch_pairs(self, weights: Tensor) -> Tensor:
        """Return what weights (..., P + M, P + M) of pairs of tokens have of pairs of patches: (..., M, M)."""
        return weights[..., self.prefix :, self.prefix :]

    def with_leading(self, bias: Tensor) -> Tensor:
        """Put zeros for the leading tokens before rows and columns of a bias of patches (..., M, M)."""
        return F.pad(bias, (self.prefix, 0, self.prefix, 0))
