"""What a method may ask of an image-text model; what a model has not, it refuses in one sentence.

The tokens of a tower lie in one sequence (B, P + h * w, C): P leading tokens, then the patches row by row. Where there
is a class token, it is the first of the leading ones; the others (registers) belong to no place. Methods never count
them: they ask for the part they want.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovseg.clip.features import Context, DenseFeatures, Need, Recalibrator
from ovseg.clip.position import RULES
from ovseg.clip.tokens import _FITTING, CLASS_TOKEN, HEADS_ADD, LEVELS, STREAM, Block
from ovseg.errors import ConfigError, InputError
from ovseg.ops.linear_layers import pack_linears


class Tower(nn.Module):
    """An image-text model: every one has the first group, those with `STREAM` the second, those with `LEVELS` the last.

    Attributes:
        name: Such as ``"ViT-B-16/openai"``.
        weights_hash: Changes with the weights and with what gives them meaning.
        embed_dim: Dimension of the joint space of image and text.
        logit_scale: Factor (not its logarithm) that it was trained with between cosines and logits.
        mean, std: Per channel of RGB images in 0..1, with which inputs are normalised.
    """

    name: str
    weights_hash: str
    embed_dim: int
    logit_scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def has(self) -> frozenset[str]:
        """What it has of `STREAM`, `ATTENTION`, `CLASS_TOKEN`, `CLASS_EMBEDDING`, `HEADS_ADD` and `LEVELS`."""
        return frozenset()

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

    def pack(self) -> None:
        """Lay the weights of the body out for the CPU; see `ovseg.ops.linear_layers.PackedLinear`.

        Raises:
            EnvironmentProblem: They cannot be packed here.
        """
        pack_linears(self.body)

    def check(self, needs: Iterable[str], who: str) -> None:
        """Refuse a method or model that needs what this tower has not.

        Args:
            needs: Of the names that `has` lists.
            who: What to call the method.

        Raises:
            ConfigError: The first thing that it lacks, and towers that have it.
        """
        for need in _FITTING:
            if need in needs and need not in self.has:
                raise self._lacks(need, who)

    def _lacks(self, need: str, who: str) -> ConfigError:
        return ConfigError(f"{who} needs {need}, which {self.name} has not; use {_FITTING[need]}")

    # With STREAM.

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        raise self._lacks(STREAM, "a method that looks at patches")

    @property
    def width(self) -> int:
        """Channels of the tokens."""
        raise self._lacks(STREAM, "a method that looks at tokens")

    @property
    def blocks(self) -> Sequence[Block]:
        """The blocks of the image tower."""
        raise self._lacks(STREAM, "a method that changes blocks")

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
        """Its own position embeddings, what ``table`` of `embed` may take the place of."""
        raise self._lacks(STREAM, "a method that looks at patches")

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

    def linear_head(self) -> tuple[nn.LayerNorm, Tensor]:
        """Return the norm and the matrix (C, D) that bring the class token to the joint space; with `HEADS_ADD`."""
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

    def dense(
        self,
        images: Tensor,
        recalibration: Recalibrator | None = None,
        need: Need | None = None,
        regions: Tensor | None = None,
    ) -> DenseFeatures:
        """Return dense features; every block runs once.

        Args:
            images: Normalised images (B, 3, H, W) of any size of at least one patch; sides are floored to patches.
            recalibration: Takes over the last blocks, as many as it says; without one CLIP runs as it is.
            need: What to record besides what the recalibration itself needs.
            regions: Region ids (B, H, W) of the pixels, for recalibrations that use them.

        Raises:
            InputError: The images have another shape, or are smaller than a patch.
            ConfigError: More blocks are handed over or asked for than there are, or the tower lacks what is needed.
        """
        handed = self.handed_over(recalibration)
        own = self.depth - handed
        self._check_images(images)
        wanted = (need or Need()) | (recalibration.needs_of(self.depth) if recalibration else Need())
        rule = recalibration.pos_resize if recalibration else RULES[0]
        hidden, attention = self._indices(wanted.hidden, own), self._indices(wanted.attention, own)
        tokens, grid = self.embed(images, rule)
        context = Context(grid, images, self, self.mean, self.std, regions)
        for index, block in enumerate(self.blocks[:own]):
            if index in attention:
                tokens, context.attention[index] = block.with_attention(tokens)
            else:
                tokens = block(tokens)
            if index in hidden:
                context.hidden[index] = tokens
        if recalibration is not None:
            return recalibration.joint(recalibration.run(tokens, self.blocks[own:], context), context)
        joint, cls = self.head(tokens)
        return DenseFeatures(context.lay_out(joint), cls, grid, context)

    def handed_over(self, recalibration: Recalibrator | None) -> int:
        """Return how many of the last blocks a recalibration takes over.

        Raises:
            ConfigError: More than there are; it needs what this tower has not; or it asks for an unknown
                position-embedding rule.
        """
        if recalibration is None:
            return 0
        self.check(recalibration.requires, recalibration.name)
        if recalibration.pos_resize not in RULES:
            raise ConfigError(f"pos_resize '{recalibration.pos_resize}' is unknown; expected one of {', '.join(RULES)}")
        wanted = recalibration.blocks_of(self.depth)
        if not 1 <= wanted <= self.depth:
            raise ConfigError(
                f"{recalibration.name} changes the last {wanted} blocks but {self.name} "
                f"has {self.depth}; choose a smaller depth or a deeper CLIP"
            )
        return wanted

    def _check_images(self, images: Tensor) -> None:
        shape = tuple(images.shape)
        if images.ndim != 4 or shape[1] != 3 or not images.is_floating_point():
            raise InputError(f"got images of shape {shape} and {images.dtype}; expected floating point (B, 3, H, W)")
        if min(shape[2:]) < self.patch_size:
            raise InputError(
                f"got {shape[3]} x {shape[2]} pixels; expected images of at least {self.patch_size} a side"
            )

    def _indices(self, asked: tuple[int, ...], own: int) -> set[int]:
        found = {index + self.depth if index < 0 else index for index in asked}
        wrong = sorted(index for index in found if not 0 <= index < own)
        if wrong:
            raise ConfigError(f"block {wrong[0]} cannot be recorded; expected 0 to {own - 1} of {self.depth}")
        return found

    # With LEVELS.

    @property
    def channels(self) -> dict[str, int]:
        """Channels of every level, by its name."""
        raise self._lacks(LEVELS, "a model that proposes masks on levels")

    def levels(self, images: Tensor) -> dict[str, Tensor]:
        """Return the feature maps of all levels, by their names, of normalised images (B, 3, H, W)."""
        raise self._lacks(LEVELS, "a model that proposes masks on levels")

    def pool(self, dense: Tensor, mask_logits: Tensor) -> Tensor:
        """Embed masks in the joint space: (B, Q, D), not of unit length.

        Args:
            dense: (B, C, h, w), the level of this name.
            mask_logits: (B, Q, H, W), resized bilinearly to (h, w); a mask is where they are positive.
        """
        raise self._lacks(LEVELS, "a model that pools masks")
