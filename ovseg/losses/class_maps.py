"""The loss of models that make a map for every class: each pixel of each map is a question of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovseg.errors import at_least, one_of
from ovseg.losses.criterion import check_labels
from ovseg.losses.matcher import Target

VOID = ("negative", "left_out")


class Questions(NamedTuple):
    """What the maps of an image should be.

    Attributes:
        wanted: (N, H, W) float32, 1 where a class is shown, else 0.
        known: (H, W) float32, 1 for pixels that count; None for all of them.
    """

    wanted: Tensor
    known: Tensor | None


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
        self.void, self.count = one_of("void", void, VOID), at_least("train_classes", train_classes, 0)

    def choose(self, near: Callable[[int], Tensor], classes: int, targets: Sequence[Target]) -> list[Tensor | None]:
        """Return for each image the classes (N,), rising, that it is compared with; None for all.

        Args:
            near: Gives how near each class is to an image of a number (K,); only asked where it makes a difference.
            classes: How many there are, K.
            targets: What each image shows.

        Raises:
            ConfigError: A target's class is not among the K.
        """
        check_labels(targets, classes)
        if not 0 < self.count < classes:
            return [None] * len(targets)
        return [self._nearest(near(index).detach().clone(), target) for index, target in enumerate(targets)]

    def _nearest(self, near: Tensor, target: Target) -> Tensor:
        shown = target.labels.unique()
        near[shown] = torch.inf
        return near.topk(max(self.count, len(shown))).indices.sort().values

    def questions(self, targets: Sequence[Target], classes: Sequence[Tensor | None], count: int) -> list[Questions]:
        """Return what is asked of each image; made once, for all maps that answer it.

        Args:
            targets: What each image shows.
            classes: As `choose` gives them.
            count: How many classes there are.
        """
        return [self._questions(*own, count) for own in zip(targets, classes, strict=True)]

    def _questions(self, target: Target, classes: Tensor | None, count: int) -> Questions:
        names = range(count) if classes is None else classes.tolist()
        places = {name: place for place, name in enumerate(names)}
        wanted = torch.zeros(len(places), *target.masks.shape[1:], device=target.masks.device)
        for name, mask in zip(target.labels.tolist(), target.masks, strict=True):
            wanted[places[name]].masked_fill_(mask.bool(), 1.0)
        return Questions(wanted, None if self.void == "negative" else target.masks.any(0).to(wanted))

    def forward(self, logits: Sequence[Tensor], questions: Sequence[Questions]) -> Tensor:
        """Return the mean over all questions of a batch, ().

        Args:
            logits: For each image (N, h, w); resized bilinearly to its masks.
            questions: See `questions`.
        """
        sums, counts = [], []
        for own, (wanted, known) in zip(logits, questions, strict=True):
            size = (wanted.shape[1], wanted.shape[2])
            resized = F.interpolate(own[None], size, mode="bilinear", align_corners=False)[0].float()
            sums.append(F.binary_cross_entropy_with_logits(resized, wanted, known, reduction="sum"))
            counts.append(wanted.new_tensor(wanted.numel()) if known is None else known.sum() * len(wanted))
        return torch.stack(sums).sum() / torch.stack(counts).sum().clamp_min(1)
