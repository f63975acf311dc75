from __future__ import annotations

import pytest
import torch

from ovseg.guides.mixing import masked_softmax, proxy_weights, resize_patches


def test_rows_sum_to_one_and_unlikely_pairs_weigh_nothing():
    weights = proxy_weights(torch.randn(2, 5, 4, 6), beta=1.2, gamma=3.0)
    assert weights.shape == (2, 24, 24)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 24))
    assert (weights == 0).any()


@pytest.mark.parametrize("beta", [1.2, 5.0])
def test_features_that_are_all_alike_give_weights_nevertheless(beta):
    weights = proxy_weights(torch.ones(1, 3, 2, 2), beta=beta)
    torch.testing.assert_close(weights, torch.eye(4)[None])


def test_the_mean_of_the_batch_mixes_images_and_the_own_does_not():
    features = torch.randn(2, 5, 4, 4)
    features[1] = features[1].abs()
    alone = proxy_weights(features[:1])
    torch.testing.assert_close(proxy_weights(features)[:1], alone)
    assert (proxy_weights(features, batch_mean=True)[:1] - alone).abs().max() > 1e-3


def test_half_precision_features_are_compared_in_single():
    features = torch.randn(1, 5, 4, 4).half()
    assert proxy_weights(features).equal(proxy_weights(features.float()))


def test_masked_softmax_keeps_the_diagonal():
    weights = masked_softmax(torch.randn(1, 3, 3), torch.zeros(1, 3, 3, dtype=torch.bool))
    torch.testing.assert_close(weights, torch.eye(3)[None])


def test_resizing_keeps_rows_and_columns_apart():
    patches = torch.arange(3.0).repeat(2)[None, :, None]  # column numbers on a grid of 2 x 3
    found = resize_patches(patches, (2, 3), (4, 6)).view(4, 6)
    assert found[0].equal(found[3]) and found[0, 0] < found[0, 5]
    assert resize_patches(patches, (2, 3), (2, 3)) is patches
