"""Masks without names, cells, likeness: hand-made properties."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ovseg.errors import ConfigError
from ovseg.losses.alignment import context_loss, fit_tokens, likeness
from ovseg.losses.cluster_head import MapHead
from ovseg.losses.clusters import cluster_loss, group_tokens, merged_targets, pool_masks, shrink_masks, sinkhorn


def test_sinkhorn_shares_clusters_out_evenly():
    logits = torch.randn(60, 5) + torch.tensor([9.0, 0, 0, 0, 0])  # all masks would like the first one
    shares = sinkhorn(logits, 50)
    torch.testing.assert_close(shares.sum(1), torch.ones(60))
    torch.testing.assert_close(shares.sum(0), torch.full((5,), 12.0), atol=0.05, rtol=0)
    assert logits.argmax(1).bincount(minlength=5)[0] == 60
    assert shares.argmax(1).bincount(minlength=5).max() < 25


def test_sinkhorn_refuses_a_negative_count():
    with pytest.raises(ConfigError, match="iterations is -1"):
        sinkhorn(torch.randn(3, 2), -1)


def test_masks_are_shrunk_pooled_and_merged():
    masks = torch.zeros(3, 8, 8, dtype=torch.bool)
    masks[0, :4], masks[1, 4:, :4], masks[2, 7, 7] = True, True, True
    small = shrink_masks(masks, (4, 4))
    assert len(small) == 2  # that of one pixel is gone
    features = torch.arange(16.0).view(1, 4, 4)
    assert pool_masks(features, small)[:, 0].tolist() == [3.5, 10.5]
    targets = merged_targets([small, small[:0]], torch.tensor([1, 1]), 3)
    assert targets.shape == (2, 3, 4, 4)
    torch.testing.assert_close(targets[0, 1].bool(), small.any(0))
    assert not targets[1].any()
    assert not targets[0, [0, 2]].any()


def test_pixels_that_no_mask_covers_do_not_count():
    targets = torch.zeros(1, 2, 4, 4)
    targets[0, 1, :2] = 1
    logits = torch.randn(1, 2, 4, 4)
    other = logits.clone()
    other[..., 2:, :] = 7.0
    assert cluster_loss(logits, targets) == cluster_loss(other, targets)
    by_hand = F.binary_cross_entropy_with_logits(logits[..., :2, :], targets[..., :2, :])
    torch.testing.assert_close(cluster_loss(logits, targets), by_hand)


def test_tokens_are_grouped_by_direction():
    centres = F.normalize(torch.randn(3, 16), dim=-1)
    own = torch.tensor([0, 1, 2, 0, 1, 2, 0, 0])
    groups = group_tokens((centres[own] * torch.rand(8, 1).add(0.5) + 0.01 * torch.randn(8, 16))[None], 3)[0]
    assert len(set(zip(own.tolist(), groups.tolist(), strict=True))) == 3


def test_a_map_of_the_head_does_not_depend_on_others():
    head, cosines = MapHead(), torch.randn(2, 3, 4, 5)
    maps = head(cosines)
    assert maps.shape == (2, 3, 16, 20)
    torch.testing.assert_close(maps[1:, 1:2], head(cosines[1:, 1:2]), atol=1e-5, rtol=1e-4)


def test_the_losses_of_the_same_are_zero():
    tokens = torch.randn(2, 9, 4)
    same = likeness(tokens)
    assert context_loss(same, likeness(3 * tokens)) < 1e-5
    # A row that is off by 3 and 4 is off by 5, and the mean is over rows.
    other = same.clone()
    other[0, 0, :2] += torch.tensor([3.0, 4.0])
    torch.testing.assert_close(context_loss(other, same), torch.tensor(5 / 18))


def test_tokens_are_fitted_to_another_grid():
    tokens = torch.arange(6.0).view(1, 6, 1)  # 2 x 3
    assert fit_tokens(tokens, (2, 3), (2, 3)) is tokens
    finer = fit_tokens(tokens, (2, 3), (4, 6))
    torch.testing.assert_close(finer.mean(), tokens.mean())
    swapped = fit_tokens(tokens, (2, 3), (4, 6), transposed=True)
    torch.testing.assert_close(swapped.view(6, 4), finer.view(4, 6).T)  # with one channel only places are swapped
