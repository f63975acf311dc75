from __future__ import annotations

import pytest
import torch

from ovseg.clip import ViTClip
from ovseg.clip.open_clip_internals import build_model
from ovseg.errors import ConfigError, UnknownNameError
from ovseg.guides import Guide
from ovseg.recalibration import build_recalibration
from ovseg.recalibration.proxyclip import proxy_weights


class Colours(Guide):
    """The pixels themselves, averaged to a grid of its own."""

    def __init__(self, grid):
        super().__init__()
        self.grid = grid

    def forward(self, context):
        return torch.nn.functional.adaptive_avg_pool2d(context.rgb, self.grid)


def build(depth=4, width=32, patch=8, size=40):
    config = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": size, "patch_size": patch, "layers": depth, "width": width, "head_width": 8},
        "text_cfg": {"context_length": 8, "vocab_size": 16, "width": 16, "heads": 2, "layers": 1},
    }
    torch.manual_seed(0)
    return ViTClip.from_config(config, build_model(config, "test").state_dict(), "test")


@pytest.fixture(scope="module")
def clip():
    return build()


@pytest.mark.parametrize("grid", [(3, 4), (5, 7), (11, 9)])
def test_features_live_on_the_grid_of_the_guide_and_a_batch_is_its_images(clip, grid):
    images, method = torch.randn(3, 3, 40, 56), build_recalibration("proxyclip", guide=Colours(grid))
    dense = clip.dense(images, method)
    assert dense.grid == grid and dense.features.shape == (3, 24, *grid)
    alone = torch.cat([clip.dense(image[None], method).features for image in images])
    torch.testing.assert_close(dense.features, alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("depth", "patch"), [(2, 8), (3, 16), (7, 4)])
def test_other_depths_and_patches_with_the_clip_as_guide(depth, patch):
    clip = build(depth=depth, patch=patch, size=4 * patch)
    dense = clip.dense(torch.randn(1, 3, 3 * patch, 5 * patch), build_recalibration("proxyclip"))
    assert dense.grid == (3, 5) and dense.features.isfinite().all()


def test_the_class_token_is_that_of_clip(clip):
    images = torch.randn(2, 3, 40, 40)
    found = clip.dense(images, build_recalibration("proxyclip", guide=Colours((3, 4)))).cls
    torch.testing.assert_close(found, clip.dense(images, build_recalibration("clip")).cls, atol=1e-5, rtol=1e-4)


def test_grids_differ_only_where_they_are_not_square(clip):
    right, swapped = (
        build_recalibration("proxyclip", guide=Colours((4, 6)), value_grid=grid) for grid in ("corrected", "original")
    )
    square, wide = torch.randn(1, 3, 40, 40), torch.randn(1, 3, 40, 56)
    torch.testing.assert_close(clip.dense(square, right).features, clip.dense(square, swapped).features)
    assert (clip.dense(wide, right).features - clip.dense(wide, swapped).features).abs().max() > 1e-3


def test_residual_and_feed_forward_are_resized_to_the_grid(clip):
    images = torch.randn(1, 3, 40, 40)
    method = build_recalibration("proxyclip", guide=Colours((6, 6)), residual=True, feed_forward=True)
    assert clip.dense(images, method).features.shape == (1, 24, 6, 6)


def test_options_are_recorded():
    method = build_recalibration("proxyclip", guide="clip:0.5", beta=1.0)
    assert method.options | {"guide_name": "clip:0.5", "beta": 1.0, "batch_mean": False} == method.options


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"guide": "dino"}, UnknownNameError, "unknown guide 'dino'"),
        ({"guide": "clip:2"}, ConfigError, "guide 'clip:2' names no share"),
        ({"value_grid": "swapped"}, ConfigError, "value_grid is 'swapped'; expected one of corrected, original"),
        ({"gamma": -1.0}, ConfigError, "gamma is -1.0; expected at least"),
        ({"guide": 3}, ConfigError, r"option guide is 3 \(int\); expected Guide or str"),
    ],
)
def test_mistakes(options, error, message):
    with pytest.raises(error, match=message):
        build_recalibration("proxyclip", **options)


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
