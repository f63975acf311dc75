"""Closing of label maps against its definition."""

from __future__ import annotations

import pytest
import torch

from ovseg.refinement import close_labels


def around(labels: torch.Tensor, side: int, pick) -> torch.Tensor:
    """Return what ``pick`` (max or min) finds in the square around every pixel, as far as it is inside."""
    half, (height, width) = side // 2, labels.shape
    found = [
        [pick(labels[max(y - half, 0) : y + half + 1, max(x - half, 0) : x + half + 1]) for x in range(width)]
        for y in range(height)
    ]
    return torch.tensor(found, dtype=labels.dtype)


@pytest.mark.parametrize("side", [1, 3, 5])
@pytest.mark.parametrize("size", [(9, 13), (1, 1), (2, 7)])
def test_equals_the_definition(side, size):
    labels = torch.randint(-1, 300, size, dtype=torch.int32, generator=torch.Generator().manual_seed(0))
    closed = close_labels(labels, side)
    assert closed.dtype == labels.dtype
    assert torch.equal(closed, around(around(labels, side, torch.max), side, torch.min))
    assert torch.equal(close_labels(closed, side), closed)
    assert (closed >= labels).all()


def test_higher_ids_grow_over_lower_ones_and_never_the_other_way():
    labels = torch.zeros(7, 7, dtype=torch.int32)
    labels[3] = 5
    assert torch.equal(close_labels(labels), labels)
    assert (close_labels(5 - labels) == 5).all()  # a line one pixel wide of the lower id is closed
    labels[3] = -1
    assert (close_labels(labels) == 0).all()  # "no class" is below all
