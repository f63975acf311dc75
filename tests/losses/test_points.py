"""Sampling at points: the two readers agree with each other and with grid_sample, and choices are what they say."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from ovseg.losses.points import sample_masks, sample_points, uncertain_points, uniform_points

CPU = torch.device("cpu")


@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 9), st.integers(1, 4))
def test_targets_are_read_as_by_grid_sample(seed, height, width, count):
    torch.manual_seed(seed)
    masks = torch.rand(count, height, width) > 0.5
    points = torch.rand(count, 20, 2) * 1.2 - 0.1  # also outside
    wanted = F.grid_sample(masks[:, None].float(), points[:, :, None] * 2 - 1, align_corners=False)[:, 0, :, 0]
    rows = torch.arange(count)
    torch.testing.assert_close(sample_masks(masks, rows, points), wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(sample_masks(masks, rows.flip(0), points.flip(0)), wanted.flip(0), atol=1e-5, rtol=0)
    torch.testing.assert_close(sample_points(masks[:, None].float(), points)[:, 0], wanted, atol=1e-5, rtol=0)


def test_one_set_of_points_for_all_targets():
    masks, points = torch.rand(3, 5, 7) > 0.5, torch.rand(1, 11, 2)
    rows = torch.arange(3)
    assert torch.equal(sample_masks(masks, rows, points), sample_masks(masks, rows, points.expand(3, -1, -1)))


def test_logits_get_a_gradient_and_points_do_not_matter_in_half():
    maps = torch.randn(2, 3, 4, 4, dtype=torch.float16, requires_grad=True)
    found = sample_points(maps, torch.rand(2, 9, 2))
    assert found.shape == (2, 3, 9) and found.dtype == torch.float32
    found.sum().backward()
    assert maps.grad is not None and maps.grad.abs().sum() > 0


def test_uncertain_points_are_the_least_certain_candidates_and_fresh_ones():
    torch.manual_seed(0)
    logits, asked = torch.randn(3, 8, 8), []

    def draw(sets, points, device):
        asked.append(uniform_points(sets, points, device))
        return asked[-1]

    chosen = uncertain_points(logits, 50, 3.0, 0.75, draw)
    candidates, fresh = asked
    assert candidates.shape == (3, 150, 2) and fresh.shape == (3, 13, 2) and chosen.shape == (3, 50, 2)
    assert torch.equal(chosen[:, 37:], fresh)
    certainty = sample_points(logits[:, None], candidates)[:, 0].abs().sort(1).values
    torch.testing.assert_close(sample_points(logits[:, None], chosen[:, :37])[:, 0].abs(), certainty[:, :37])


def test_all_or_none_of_the_points_uncertain():
    assert uncertain_points(torch.randn(2, 4, 4), 5, 2.0, 1.0).shape == (2, 5, 2)
    assert uncertain_points(torch.randn(2, 4, 4), 5, 2.0, 0.0).shape == (2, 5, 2)


def test_no_mask_at_all():
    assert uncertain_points(torch.zeros(0, 4, 4), 5).shape == (0, 5, 2)
    assert sample_masks(torch.zeros(0, 4, 4, dtype=torch.bool), torch.arange(0), torch.rand(1, 5, 2)).shape == (0, 5)


def test_uniform_points():
    points = uniform_points(4, 1000, CPU)
    assert points.shape == (4, 1000, 2) and points.min() >= 0 and points.max() <= 1
