"""Tune by labelled masks: CLIPood's margin, EdaDet's dense alignment and FROSTER's regulariser, each an option."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg.clip import Tower
from ovseg.errors import at_least
from ovseg.losses.mask_classes import MaskClassLoss
from ovseg.losses.residual_distillation import ResidualDistillation
from ovseg.meta_arch.tuned_clip.recipe import RECIPE_REGISTRY, Recipe, Sample
from ovseg.meta_arch.tuned_clip.regions import class_rows, images_of, masks_of, patches_of

if TYPE_CHECKING:
    from ovseg.contract import Words


@RECIPE_REGISTRY.register()
class Labelled(Recipe):
    """Masks learn their classes; see `MaskClassLoss` and `ResidualDistillation`.

    ``SOLVER.BETA_AVERAGE`` averages the weights as CLIPood does. The image tower alone is tuned, so texts need no
    branch of FROSTER's.
    """

    def __init__(
        self,
        *,
        alignment: str = "features",
        margin: float = 0.0,
        residual: float = 0.0,
        scale: float = 100.0,
        **common: Any,
    ) -> None:
        """Set the losses.

        Args:
            alignment: Of `MaskClassLoss`.
            margin: Likewise; CLIPood has 0.3.
            residual: Weight of FROSTER's distance of patches from the original; 0 is none, FROSTER has 2.
            scale: Between cosines and logits.
            common: Options of `Recipe`.

        Raises:
            ConfigError: A value is not allowed.
        """
        super().__init__(**common)
        self.criterion = MaskClassLoss(alignment=alignment, margin=margin)
        self.residual, self.scale = at_least("residual", residual, 0.0), at_least("scale", scale, 0.0)
        self.kept: ResidualDistillation | None = None

    def begin(self, clip: Tower) -> None:
        """Build the branch."""
        if self.residual:
            self.kept = ResidualDistillation(clip.embed_dim, ratio=self.residual)
            self.kept.texts.requires_grad_(False)

    def losses(self, student: Tower, original: Tower, batch: Sequence[Sample], words: Words) -> dict[str, Tensor]:
        """Return the loss of classes, and that of the distance from the original."""
        images = images_of(student, batch)
        features = patches_of(student, images)
        texts, size, grid = class_rows(words, features), images.shape[2:], features.shape[2:]
        found = []
        for sample, own in zip(batch, features, strict=True):
            masks = masks_of(sample, (size[0], size[1]), (grid[0], grid[1]), own)
            labels = sample["instances"].gt_classes.to(own.device)
            found.append(self.criterion(own, masks, labels, texts, self.scale))
        losses = {"loss_classes": torch.stack(found).mean()}
        if self.kept is not None:
            with torch.no_grad():
                frozen = _rows(patches_of(original, images))
            losses["loss_residual"] = self.kept(_rows(features), frozen)
        return losses


def _rows(features: Tensor) -> Tensor:
    """Return unit rows (B * h * w, D) of features (B, D, h, w)."""
    return F.normalize(features.permute(0, 2, 3, 1).flatten(0, 2), dim=1)
