"""What class a mask has: cross entropy of its mean feature, or of what its pixels say one by one (EdaDet).

Shi and Yang, EdaDet: Open-Vocabulary Object Detection Using Early Dense Alignment, ICCV 2023, arXiv 2309.01151. It
compares every place with the names before anything is pooled, so that what is local stays, and classes that were not
learnt are not drawn to those that were. How it pools is not published; ``logits`` and ``probabilities`` are ours.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovseg.errors import at_least, one_of
from ovseg.losses.margin import margin_logits

ALIGNMENTS = ("features", "logits", "probabilities")
_TINY = 1e-6


class MaskClassLoss(nn.Module):
    """Cross entropy of masks and their classes, with CLIPood's margin (`ovseg.losses.margin`).

    Attributes:
        alignment, margin: See the constructor.
    """

    def __init__(self, *, alignment: str = "features", margin: float = 0.0) -> None:
        """Check the options.

        Args:
            alignment: What is averaged over a mask: ``features``, which are then compared with the texts; or EdaDet's
                dense alignment, ``logits`` or ``probabilities`` of each place.
            margin: 0 is none; CLIPood has 0.3.

        Raises:
            ConfigError: Another word, or a negative margin.
        """
        super().__init__()
        self.alignment = one_of("alignment", alignment, ALIGNMENTS)
        self.margin = float(at_least("margin", margin, 0))

    def forward(
        self, features: Tensor, masks: Tensor, labels: Tensor, texts: Tensor, scale: float | Tensor = 100.0
    ) -> Tensor:
        """Return the mean over masks, (); masks that cover no place do not count.

        Args:
            features: (D, h, w) of one image.
            masks: (N, h, w), the share of each place that a mask covers, 0..1.
            labels: (N,) int64.
            texts: Unit rows (C, D).
            scale: CLIP's logit scale.
        """
        shares = masks.flatten(1).to(features)
        seen = shares.sum(1) > _TINY
        shares, labels = shares[seen], labels[seen]
        if not len(shares):
            return features.sum() * 0
        weights = shares / shares.sum(1, keepdim=True)
        rows = F.normalize(features.flatten(1).mT, dim=1)
        if self.alignment == "features":
            pooled = F.normalize(weights @ rows, dim=1)
            return F.cross_entropy(margin_logits(pooled, texts, labels, scale, self.margin), labels)
        # Of every place its logits; the margin of a mask's class is the same at all of its places.
        logits = scale * rows @ texts.mT
        lead = scale * self.margin * texts[labels] @ texts.mT
        if self.alignment == "logits":
            return F.cross_entropy(weights @ logits - lead, labels)
        return self._mean_probability(logits, lead, weights, labels)

    @staticmethod
    def _mean_probability(logits: Tensor, lead: Tensor, weights: Tensor, labels: Tensor) -> Tensor:
        """Return minus the logarithm of the mean probability of the right class; (P, C), (N, C), (N, P), (N,)."""
        found = []
        for own, weight, label in zip(lead, weights, labels.tolist(), strict=True):  # masks of an image are few
            chosen = (logits - own).log_softmax(1)[:, label]
            found.append(-torch.logsumexp(chosen + weight.clamp_min(torch.finfo(weight.dtype).tiny).log(), 0))
        return torch.stack(found).mean()
