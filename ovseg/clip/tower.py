"""An image-text model whole: its tokens, its dense features with a method among its blocks, and its levels."""

from __future__ import annotations

from torch import Tensor

from ovseg.clip.features import Context, DenseFeatures, Need, Recalibrator
from ovseg.clip.position import RULES
from ovseg.clip.tokens import LEVELS, STREAM, TokenTower
from ovseg.errors import ConfigError, InputError


class Tower(TokenTower):
    """An image-text model: with `DENSE` it gives dense features, with `LEVELS` those of several sizes."""

    def dense(
        self,
        images: Tensor,
        recalibration: Recalibrator | None = None,
        need: Need | None = None,
        regions: Tensor | None = None,
    ) -> DenseFeatures:
        """Return dense features; every block runs once, and a tower without blocks (no `STREAM`) once as a whole.

        Args:
            images: Normalised images (B, 3, H, W) of any size of at least one patch; sides are floored to patches.
            recalibration: Takes over the last blocks, as many as it says; without one CLIP runs as it is.
            need: What to record besides what the recalibration itself needs.
            regions: Region ids (B, H, W) of the pixels, for recalibrations that use them.

        Raises:
            InputError: The images have another shape, or are smaller than a patch.
            ConfigError: More blocks are handed over or asked for than there are, or the tower lacks what is needed.
        """
        if STREAM not in self.has:
            return self._dense_whole(images, recalibration, need, regions)
        tokens, context = self.entering(images, recalibration, need, regions)
        if recalibration is not None:
            left = context.blocks[self.depth - recalibration.blocks_of(self.depth) :]
            return recalibration.joint(recalibration.run(tokens, left, context), context)
        joint, cls = self.head(tokens)
        return DenseFeatures(context.lay_out(joint), cls, context.grid, context)

    def entering(
        self,
        images: Tensor,
        recalibration: Recalibrator | None = None,
        need: Need | None = None,
        regions: Tensor | None = None,
    ) -> tuple[Tensor, Context]:
        """Run the blocks that a recalibration leaves as they are, of a tower with `STREAM`.

        Returns:
            The tokens (B, N, C) that enter the blocks it takes over, and what was recorded; the rest is as in `dense`.
        """
        own = self.depth - self.handed_over(recalibration)
        self._check_images(images)
        wanted = (need or Need()) | (recalibration.needs_of(self.depth) if recalibration else Need())
        rule = recalibration.pos_resize if recalibration else RULES[0]
        hidden, attention = self._indices(wanted.hidden, own), self._indices(wanted.attention, own)
        tokens, grid = self.embed(images, rule)
        context = Context(grid, images, self, self.mean, self.std, regions)
        blocks = context.blocks
        for index, block in enumerate(blocks[:own]):
            if index in attention:
                tokens, context.attention[index] = block.with_attention(tokens)
            else:
                tokens = block(tokens)
            if index in hidden:
                context.hidden[index] = tokens
        return tokens, context

    def _dense_whole(
        self, images: Tensor, recalibration: Recalibrator | None, need: Need | None, regions: Tensor | None
    ) -> DenseFeatures:
        """Return dense features of a tower that has no blocks; see `dense`."""
        if recalibration is not None:
            self.check_method(recalibration)
        if need is not None and need != Need():
            raise self._lacks(STREAM, "what records tokens")
        rule, own_values = (recalibration.pos_resize, recalibration.own_values) if recalibration else (RULES[0], False)
        self._check_images(images)
        features, embedding = self.dense_map(images, rule, own_values)
        grid = (features.shape[2], features.shape[3])
        return DenseFeatures(features, embedding, grid, Context(grid, images, self, self.mean, self.std, regions))

    def handed_over(self, recalibration: Recalibrator | None) -> int:
        """Return how many of the last blocks a recalibration takes over.

        Raises:
            ConfigError: As `check_method`.
        """
        if recalibration is None:
            return 0
        self.check_method(recalibration)
        return recalibration.blocks_of(self.depth)

    def check_method(self, recalibration: Recalibrator) -> None:
        """Refuse a recalibration that does not fit this tower.

        Raises:
            ConfigError: It takes over more blocks than there are; it needs what this tower has not; it asks for an
                unknown position-embedding rule; or has a reason of its own.
        """
        self.check(recalibration.requires, recalibration.name, recalibration.fitting)
        if recalibration.pos_resize not in RULES:
            raise ConfigError(f"pos_resize '{recalibration.pos_resize}' is unknown; expected one of {', '.join(RULES)}")
        recalibration.check_tower(self)
        if STREAM not in self.has:
            return
        wanted = recalibration.blocks_of(self.depth)
        if not 1 <= wanted <= self.depth:
            raise ConfigError(
                f"{recalibration.name} changes the last {wanted} blocks but {self.name} "
                f"has {self.depth}; choose a smaller depth or a deeper CLIP"
            )

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
