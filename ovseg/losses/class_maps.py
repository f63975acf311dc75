"""The loss of models that make a map for every class: each pixel of each map is a question of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovseg.errors import ConfigError, one_of
from ovseg.losses.matcher import Target

VOID = ("negative", "left_out")


class ClassMapCriterion(nn.Module):
    """Binary cross entropy over all pixels and classes (CAT-Seg, SED).

    Attributes:
        void: See the constructor.
        count: How many classes an image is compared with; 0 for all.
    """

    def __init__(self, *, void: str = "negative", train_classes: int = 0) -> None:
        """Check the options.

        Args:
            void: What pixels are to which no mask belongs: ``negative``, they show no class, as in the originals, where
                what was not labelled counts so; or ``left_out``.
            train_classes: So many classes are compared with each image: those that it shows, and of the others those
                that are nearest to it. 0 is all of them, as in the originals.

        Raises:
            ConfigError: ``void`` is another word, or the count is negative.
        """
        super().__init__()
        if train_classes < 0:
            raise ConfigError(f"train_classes is {train_classes}; expected a number of classes, or 0 for all")
        self.void, self.count = one_of("void", void, VOID), train_classes

    def choose(self, near: Tensor, target: Target) -> Tensor | None:
        """Return the classes (N,), rising, that an image is compared with; None for all.

        Args:
            near: How near each class is to the image (K,).
            target: What the image shows.
        """
        if not 0 < self.count < len(near):
            return None
        shown = target.labels.unique()
        near = near.detach().clone()
        near[shown] = torch.inf
        return near.topk(max(self.count, len(shown))).indices.sort().values

    def forward(self, logits: Sequence[Tensor], targets: Sequence[Target], classes: Sequence[Tensor | None]) -> Tensor:
        """Return the mean over all questions of a batch, ().

        Args:
            logits: For each image (N, h, w); resized bilinearly to its masks.
            targets: What each shows, masks (M, H, W).
            classes: The class (N,) of each map, rising; None where all classes have one.
        """
        sums, counts = [], []
        for own, target, names in zip(logits, targets, classes, strict=True):
            size = (target.masks.shape[1], target.masks.shape[2])
            resized = F.interpolate(own[None], size, mode="bilinear", align_corners=False)[0]
            every = F.binary_cross_entropy_with_logits(resized, _wanted(resized, target, names), reduction="none")
            known = torch.ones_like(every[0]) if self.void == "negative" else target.masks.any(0).to(every)
            sums.append((every * known).sum())
            counts.append(known.sum() * len(own))
        return torch.stack(sums).sum() / torch.stack(counts).sum().clamp_min(1)


def _wanted(maps: Tensor, target: Target, classes: Tensor | None) -> Tensor:
    """Return what maps (N, H, W) of classes (N,) should be: 1 where a class is shown, else 0."""
    found = torch.zeros_like(maps)
    names = range(len(maps)) if classes is None else classes.tolist()
    places = {name: place for place, name in enumerate(names)}
    for name, mask in zip(target.labels.tolist(), target.masks, strict=True):
        if name in places:
            found[places[name]].masked_fill_(mask.bool(), 1.0)
    return found
