"""What a student of a frozen CLIP and of a second backbone should have in common with them (DeCLIP)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def likeness(tokens: Tensor) -> Tensor:
    """Return the cosines (B, N, N) of all pairs of tokens (B, N, C)."""
    unit = F.normalize(tokens.float(), dim=-1)
    return unit @ unit.mT


def context_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return how far two likenesses (B, N, N) lie apart (): the mean Euclidean length of the difference of a row.

    The length is neither squared nor divided by the number of columns (DeCLIP, arXiv 2505.04410).
    """
    return (teacher.detach() - student).norm(dim=-1).mean()


def fit_tokens(tokens: Tensor, grid: tuple[int, int], wanted: tuple[int, int], transposed: bool = False) -> Tensor:
    """Bring the tokens (B, h * w, C) of a grid to another one by bilinear interpolation: (B, H * W, C).

    Args:
        tokens: Row by row.
        grid: Their rows and columns.
        wanted: Those of the result.
        transposed: As DeCLIP's code does where grids differ: it swaps the axes of the resized map and reads its memory
            as tokens, which mixes channels and places. Its released models were trained where grids are the same.
    """
    if grid == wanted:
        return tokens
    resized = F.interpolate(tokens.mT.unflatten(-1, grid), wanted, mode="bilinear", align_corners=False)
    if transposed:
        return resized.mT.contiguous().view(len(tokens), -1, tokens.shape[2])
    return resized.flatten(2).mT


def backbone_tokens(features: Tensor) -> Tensor:
    """Return the tokens (B, h * w, C) of features (B, C, h, w) of a second backbone, row by row."""
    return features.flatten(2).mT
