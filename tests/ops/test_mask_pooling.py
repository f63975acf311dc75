"""Pooling over masks."""

from __future__ import annotations

import pytest
import torch

from ovseg.ops import mask_pool, resize_masks


def test_means_inside_of_masks():
    features = torch.arange(12.0).view(1, 2, 2, 3)
    masks = torch.tensor([[[[1.0, -1, -1], [-1, -1, 3]], [[-1.0] * 3] * 2, [[1.0] * 3] * 2, [[0.0] * 3] * 2]])
    found = mask_pool(features, masks)
    assert found.tolist() == [[[2.5, 8.5], [0, 0], [2.5, 8.5], [0, 0]]]  # empty masks are zeros; 0 is not inside


def test_masks_are_resized_before_they_are_cut():
    masks = torch.tensor([[[[-1.0, 3.0], [-1.0, 3.0]]]])
    assert resize_masks(masks, (1, 1)).item() == 1
    assert mask_pool(torch.full((1, 1, 1, 1), 7.0), masks).item() == 7


def test_gradients_reach_features_alone():
    features, masks = torch.rand(1, 2, 4, 4, requires_grad=True), torch.randn(1, 3, 8, 8, requires_grad=True)
    mask_pool(features, masks).sum().backward()
    assert features.grad.abs().sum() > 0 and masks.grad is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_has_neither_overflow_nor_division_by_zero(dtype):
    features = torch.full((1, 1, 300, 300), 2.0, dtype=dtype)
    masks = torch.stack([torch.ones(300, 300), -torch.ones(300, 300)])[None].to(dtype)
    found = mask_pool(features, masks)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), torch.tensor([[[2.0], [0.0]]]), atol=0.02, rtol=0)
