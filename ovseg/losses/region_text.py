"""Regions and names: a teacher names regions, a student learns it, and which of them share a name (RegionCLIP).

Zhong et al., RegionCLIP: Region-based Language-Image Pretraining, CVPR 2022, arXiv 2112.09106;
github.com/microsoft/RegionCLIP. Rows need not be of unit length.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

TEMPERATURE = 0.01
LEAST = 0.1
"""Of the paper: regions whose best name the teacher gives less are left out, unless it gives all of them less."""


class Named(NamedTuple):
    """What a teacher says of regions.

    Attributes:
        kept: (R,) bool, the regions that count.
        names: (n,) int64, the concept of each region that counts.
        probabilities: (n, C) of all concepts.
    """

    kept: Tensor
    names: Tensor
    probabilities: Tensor


def cosines(left: Tensor, right: Tensor) -> Tensor:
    """Return the cosines (N, M) of rows (N, D) and (M, D)."""
    return F.normalize(left, dim=-1) @ F.normalize(right, dim=-1).mT


@torch.no_grad()
def name_regions(regions: Tensor, concepts: Tensor, least: float = LEAST, temperature: float = TEMPERATURE) -> Named:
    """Let a teacher name regions (R, D) by concepts (C, D), and keep those that it is sure enough of."""
    probabilities = (cosines(regions, concepts) / temperature).softmax(-1)
    best, names = probabilities.max(-1)
    kept = best > least
    if not kept.any():
        kept = torch.ones_like(kept)
    return Named(kept, names[kept], probabilities[kept])


def teacher_divergence(
    student: Tensor, concepts: Tensor, probabilities: Tensor, temperature: float = TEMPERATURE
) -> Tensor:
    """Return the Kullback-Leibler divergence of a student's names from the teacher's, a mean over regions, ().

    The original takes the logarithm behind the softmax, which is minus infinity where cosines differ by more than about
    1; here it is taken before.

    Args:
        student: Rows (n, D) of regions that count.
        concepts: (C, D).
        probabilities: (n, C) of the teacher.
        temperature: Of the softmax.
    """
    found = (cosines(student, concepts) / temperature).log_softmax(-1)
    return F.kl_div(found, probabilities, reduction="batchmean")


def concept_contrast(student: Tensor, concepts: Tensor, names: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Return how regions find the texts of all regions with their concept among those of all regions, a mean, ().

    Args:
        student: Rows (n, D) of regions.
        concepts: (C, D).
        names: (n,) int64, the concept of each region.
        temperature: Of the softmax.
    """
    own = (cosines(student, concepts[names]) / temperature).log_softmax(-1)
    same = names[:, None] == names
    return -own.masked_fill(~same, -torch.inf).logsumexp(-1).mean()


def image_text(images: Tensor, texts: Tensor, temperature: float | Tensor = TEMPERATURE) -> Tensor:
    """Return CLIP's loss of images (B, D) and their captions (B, D): the mean of both directions, ()."""
    logits = cosines(images, texts) / temperature
    wanted = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, wanted) + F.cross_entropy(logits.mT, wanted)) / 2


def head_scores(regions: Tensor, texts: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Return logits (R, C + 1) of regions (R, D): cosines with texts (C, D), and behind them 0 for no class."""
    return F.pad(cosines(regions, texts) / temperature, (0, 1))


def focal_loss(scores: Tensor, labels: Tensor, gamma: float = 0.5, of_background: float = 0.2) -> Tensor:
    """Return the cross entropy of regions, where those that are easy and those of no class weigh less, a mean, ().

    Args:
        scores: (R, C + 1) as `head_scores` gives them.
        labels: (R,) int64; C is no class.
        gamma: Each weighs ``(1 - p)^gamma``, p its probability of the right class.
        of_background: Weight of regions of no class; negative is 1, as in the original.
    """
    losses = F.cross_entropy(scores, labels, reduction="none")
    losses = losses * (1 - (-losses).exp()).clamp_min(0) ** gamma
    if of_background >= 0:
        losses = losses.where(labels != scores.shape[1] - 1, of_background * losses)
    return losses.mean()


def with_objectness(probabilities: Tensor, objectness: Tensor) -> Tensor:
    """Return the geometric mean of what a region's name is worth (..., C) and what its proposal is (...), both 0..1."""
    return (probabilities * objectness[..., None]).sqrt()
