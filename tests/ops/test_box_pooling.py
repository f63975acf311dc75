"""Tests of means inside boxes and masks."""

import pytest
import torch

from ovseg.ops.box_pooling import pool_boxes, pool_masks


def test_boxes_are_taken_from_their_own_image():
    features = torch.stack([torch.zeros(3, 4, 4), torch.ones(3, 4, 4)])
    box = torch.tensor([[0.25, 0.25, 0.75, 0.75]])
    assert pool_boxes(features, [box, torch.cat([box, box])]).tolist() == [[0.0] * 3, [1.0] * 3, [1.0] * 3]


def test_boxes_of_an_even_map_give_its_value_and_none_give_nothing():
    features = torch.ones(1, 5, 6, 8)
    assert pool_boxes(features, [torch.tensor([[0.1, 0.2, 0.6, 0.9]])]) == pytest.approx(torch.ones(1, 5))
    assert pool_boxes(features, [torch.empty(0, 4)]).shape == (0, 5)


def test_masks_give_unit_means():
    features = torch.rand(1, 3, 4, 4)
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[0, 1, 2] = True
    found = pool_masks(features, [mask])
    assert found[0] == pytest.approx(features[0, :, 1, 2] / features[0, :, 1, 2].norm(), abs=1e-5)
