"""Bilinear interpolation along one axis as a matrix."""

from __future__ import annotations

import torch
from torch import Tensor


def bilinear_matrix(inputs: int, outputs: int, corners: bool = False) -> Tensor:
    """Return the matrix (outputs, inputs), float64, of bilinear interpolation along one axis.

    It is what ``F.interpolate(..., mode="bilinear", align_corners=corners)`` does without antialiasing.
    """
    if corners:
        places = torch.arange(outputs, dtype=torch.float64) * ((inputs - 1) / max(outputs - 1, 1))
    else:
        places = (torch.arange(outputs, dtype=torch.float64) + 0.5) * (inputs / outputs) - 0.5
    places = places.clamp(0, inputs - 1)
    left = places.floor().long().clamp(max=max(inputs - 2, 0))
    share = places - left
    matrix = torch.zeros(outputs, inputs, dtype=torch.float64)
    rows = torch.arange(outputs)
    matrix[rows, left] = 1 - share
    matrix[rows, (left + 1).clamp(max=inputs - 1)] += share
    return matrix
