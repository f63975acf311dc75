"""AutoCLIP: weights of templates that suit the image (Metzen et al., 2023, arXiv 2309.16414)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ovseg.vocabulary.engineering import Recipe, unit

_LARGEST_STEP = 1e6  # for a gradient whose entries span 1; larger ones only part what are ties
_HALVINGS = 60


def template_weights(similarities: Tensor, share: float) -> Tensor:
    """Weigh templates for each image by one step up the log-sum-exp of the classes' similarities.

    From equal weights the step goes along the gradient in the logits of the weights. Its size is the one at which the
    entropy of the weights has fallen to ``share * log(M)``, so it needs no tuning by scale, and the length of the
    gradient does not matter.

    Args:
        similarities: Cosine (B, T, M) of each image with each text in each template.
        share: Share of the largest entropy, above 0 and up to 1; at 1 all templates weigh the same.

    Returns:
        Weights (B, M) float32, which sum to 1. Templates that no image can tell apart stay equal, even where their
        entropy then stays above the target.
    """
    found = similarities.float()
    means = found.mean(2)  # the classes' similarities under equal weights
    slope = torch.einsum("bt,btm->bm", means.softmax(1), found - means[:, :, None])
    slope = slope - slope.amax(1, keepdim=True)
    slope = slope / slope.amin(1, keepdim=True).abs().clamp_min(torch.finfo(slope.dtype).tiny)
    target = share * math.log(found.shape[2])
    low, high = torch.zeros_like(slope[:, :1]), torch.full_like(slope[:, :1], _LARGEST_STEP)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        above = torch.special.entr((middle * slope).softmax(1)).sum(1, keepdim=True) > target
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return (low * slope).softmax(1)


@dataclass(frozen=True, eq=False)
class AutoClip:
    """Rows of queries whose templates weigh differently for every image.

    The weights come from the embedding of what is encoded in one pass, so every sliding window has its own. They are
    applied to all texts that are put into templates, before descriptions, definitions and sub-classes come in. Where
    the paper leaves weighted means as they are, they are of unit length here as all means of templates are: equal
    weights give exactly the rows without AutoCLIP.

    Attributes:
        recipe: What is made of the texts.
        templates: Unit rows (U, M, D) of the recipe's texts in every template.
        described: Unit rows (P, D) of the recipe's descriptions.
    """

    recipe: Recipe
    templates: Tensor
    described: Tensor

    def __call__(self, cls: Tensor) -> Tensor:
        """Return rows (B, T, D) for images whose own embeddings are ``cls`` (B, D)."""
        competing = self.templates[: len(self.recipe.query_to_class)]
        similarities = torch.einsum("bd,tmd->btm", unit(cls.float()), competing)
        weights = template_weights(similarities, self.recipe.options.autoclip)
        return self.recipe.compose(unit(torch.einsum("bm,umd->bud", weights, self.templates)), self.described)

    def to(self, device: torch.device) -> AutoClip:
        """Return the same on another device; the rows of all templates are large, so words move once."""
        return AutoClip(self.recipe, self.templates.to(device), self.described.to(device))
