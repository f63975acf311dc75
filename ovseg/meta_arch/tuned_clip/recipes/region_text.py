"""Tune by regions that the original names: RegionCLIP's losses, without a label of any region."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ovseg.clip import Tower
from ovseg.errors import at_least, within
from ovseg.losses.region_text import concept_contrast, name_regions, teacher_divergence
from ovseg.meta_arch.tuned_clip.recipe import RECIPE_REGISTRY, Recipe, Sample
from ovseg.meta_arch.tuned_clip.regions import class_rows, images_of, masks_of, patches_of, pooled

if TYPE_CHECKING:
    from ovseg.contract import Words


@RECIPE_REGISTRY.register()
class RegionText(Recipe):
    """RegionCLIP (Zhong et al., CVPR 2022, arXiv 2112.09106; github.com/microsoft/RegionCLIP) with masks for boxes.

    The masks of the data stand for proposals; their classes are not looked at. The concepts are the words of the data,
    and the teacher is the original, whose patches are averaged under a mask; images have no captions here, so the
    third loss of the paper is left out.
    """

    def __init__(
        self,
        *,
        divergence: float = 1.0,
        contrast: float = 1.0,
        least: float = 0.1,
        temperature: float = 0.01,
        **common: Any,
    ) -> None:
        """Set the losses.

        Args:
            divergence: Weight of the distance from what the teacher says of a region.
            contrast: Weight of telling regions of other concepts apart.
            least: Regions count whose best concept the teacher gives more, 0..1.
            temperature: Of both.
            common: Options of `Recipe`.

        Raises:
            ConfigError: A value is not allowed.
        """
        super().__init__(**common)
        self.divergence = at_least("divergence", divergence, 0.0)
        self.contrast = at_least("contrast", contrast, 0.0)
        self.least = within("least", least, 0, 1)
        self.temperature = at_least("temperature", temperature, 1e-4)

    def losses(self, student: Tower, original: Tower, batch: Sequence[Sample], words: Words) -> dict[str, Tensor]:
        """Return both losses over the regions of all images."""
        images = images_of(student, batch)
        features = patches_of(student, images)
        with torch.no_grad():
            frozen = patches_of(original, images)
        size, grid = images.shape[2:], features.shape[2:]
        own, wanted = [], []
        for sample, mine, other in zip(batch, features, frozen, strict=True):
            masks = masks_of(sample, (size[0], size[1]), (grid[0], grid[1]), mine)
            masks = masks[masks.flatten(1).sum(1) > 0]
            own.append(pooled(mine, masks))
            wanted.append(pooled(other, masks))
        regions, concepts = torch.cat(own), class_rows(words, features)
        if not len(regions):  # cut from images without a label
            nothing = features.sum() * 0
            return {"loss_divergence": nothing, "loss_contrast": nothing}
        named = name_regions(torch.cat(wanted), concepts, self.least, self.temperature)
        kept, heat = regions[named.kept], self.temperature
        return {
            "loss_divergence": self.divergence * teacher_divergence(kept, concepts, named.probabilities, heat),
            "loss_contrast": self.contrast * concept_contrast(kept, concepts, named.names, heat),
        }
