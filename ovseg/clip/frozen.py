"""A frozen CLIP that gives dense features, with its last blocks handed to a recalibration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ovseg.clip.base import OPENAI_MEAN, OPENAI_STD, BaseClip
from ovseg.clip.features import Context, DenseFeatures, Need, Recalibrator
from ovseg.clip.open_clip_internals import Block, VisualTower, check_config
from ovseg.clip.position import RULES
from ovseg.errors import ConfigError, InputError


class FrozenClip(BaseClip):
    """A frozen CLIP whose image tower is a vision transformer of open_clip's own.

    Attributes:
        patch_size, depth, image_size: Of the image tower; sizes in pixels, the image size that of training.
    """

    check_config = staticmethod(check_config)

    def __init__(
        self,
        model: Any,
        model_cfg: Mapping[str, Any],
        name: str,
        mean: tuple[float, float, float] = OPENAI_MEAN,
        std: tuple[float, float, float] = OPENAI_STD,
    ) -> None:
        """Freeze a built and loaded open_clip model.

        Raises:
            ConfigError: The image tower is not a plain vision transformer.
        """
        tower = VisualTower(model.visual)
        super().__init__(model, model_cfg, name, mean, std)
        self.tower = tower

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        return self.tower.patch_size

    @property
    def image_size(self) -> int:
        """Side of the images CLIP was trained with, in pixels."""
        return self.tower.image_size

    @property
    def blocks(self) -> list[Block]:
        """The blocks of the image tower."""
        return self.tower.blocks

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.tower.blocks)

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
            ConfigError: More blocks are handed over or asked for than there are.
        """
        self._check_images(images)
        wanted = (need or Need()) | (recalibration.needs_of(self.depth) if recalibration else Need())
        rule = recalibration.pos_resize if recalibration else RULES[0]
        own = self.depth - self.handed_over(recalibration)
        hidden, attention = self._indices(wanted.hidden, own), self._indices(wanted.attention, own)
        tokens, grid = self.tower.embed(images, rule)
        context = Context(grid, images, self.tower, self.mean, self.std, regions)
        for index, block in enumerate(self.blocks[:own]):
            if index in attention:
                tokens, context.attention[index] = block.with_attention(tokens)
            else:
                tokens = block(tokens)
            if index in hidden:
                context.hidden[index] = tokens
        if recalibration is not None:
            return recalibration.joint(recalibration.run(tokens, self.blocks[own:], context), context)
        joint, cls = self.tower.head(tokens)
        return DenseFeatures(joint[:, 1:].mT.unflatten(-1, grid), cls, grid, context)

    def _check_images(self, images: Tensor) -> None:
        shape = tuple(images.shape)
        if images.ndim != 4 or shape[1] != 3 or not images.is_floating_point():
            raise InputError(f"got images of shape {shape} and {images.dtype}; expected floating point (B, 3, H, W)")
        if min(shape[2:]) < self.patch_size:
            raise InputError(
                f"got {shape[3]} x {shape[2]} pixels; expected images of at least {self.patch_size} a side"
            )

    def handed_over(self, recalibration: Recalibrator | None) -> int:
        """Return how many of the last blocks a recalibration takes over.

        Raises:
            ConfigError: More than there are, or it asks for an unknown position-embedding rule.
        """
        if recalibration is None:
            return 0
        if recalibration.pos_resize not in RULES:
            raise ConfigError(f"pos_resize '{recalibration.pos_resize}' is unknown; expected one of {', '.join(RULES)}")
        wanted = recalibration.blocks_of(self.depth)
        if not 1 <= wanted <= self.depth:
            raise ConfigError(
                f"{recalibration.name} changes the last {wanted} blocks but {self.name} "
                f"has {self.depth}; choose a smaller depth or a deeper CLIP"
            )
        return wanted

    def _indices(self, asked: tuple[int, ...], own: int) -> set[int]:
        found = {index + self.depth if index < 0 else index for index in asked}
        wrong = sorted(index for index in found if not 0 <= index < own)
        if wrong:
            raise ConfigError(f"block {wrong[0]} cannot be recorded; expected 0 to {own - 1} of {self.depth}")
        return found
