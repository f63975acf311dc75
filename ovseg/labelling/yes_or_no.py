"""Yes or no for each class by itself: every row has a counter row, and a pixel says which of the two it is like.

Wang et al., Exploring CLIP for Assessing the Look and Feel of Images, AAAI 2023, arXiv 2207.12396 (CLIP-IQA, whole
images); as maps it is ours. Pairs know nothing of each other: what different classes get does not sum to 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

LINE = 0.5
"""Pixels that say yes to no class by more than this have none."""


def probability_of_yes(yes: Tensor, no: Tensor, scale: float) -> Tensor:
    """Return the softmax of each pair, its first entry.

    Args:
        yes: Cosines (...) with the row of a class.
        no: The same with its counter row.
        scale: Between cosines and logits; 100 in CLIP-IQA.
    """
    return torch.stack([scale * yes, scale * no], -1).softmax(-1)[..., 0]
