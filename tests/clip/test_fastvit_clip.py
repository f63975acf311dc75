"""FastViTs: dense features whose mean is the embedding of the source."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from ovseg.clip.fastvit_clip import FastViTClip
from ovseg.clip.tokens import DENSE
from ovseg.errors import ConfigError
from ovseg.recalibration import build_recalibration
from tests.clip.towers import TOWERS, narrow

FAMILIES = [name for name in TOWERS if "FastViT" in name]


@cache
def tower(family: str) -> Any:
    return TOWERS[family](1)


def pictures(height: int, width: int) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["CLIP", "MaskCLIP"])
def test_the_mean_of_dense_features_is_the_embedding_of_the_source(family, name):
    clip, side = tower(family), tower(family).patch_size
    images = pictures(2 * side, 3 * side)
    dense, expected = clip.dense(images, build_recalibration(name)), clip.model.encode_image(images)
    assert dense.features.shape == (2, clip.embed_dim, 2, 3) and (expected[0] - expected[1]).abs().max() > 0.01
    torch.testing.assert_close(dense.cls, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(dense.features.mean((2, 3)), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_any_size_in_a_batch_or_alone_and_in_half_precision(family):
    clip, side = tower(family), tower(family).patch_size
    images = pictures(2 * side + 5, 3 * side + side - 1)
    features = clip.dense(images).features
    torch.testing.assert_close(features, clip.dense(images[:, :, : 2 * side, : 3 * side]).features)
    alone = torch.cat([clip.dense(image[None]).features for image in images])
    torch.testing.assert_close(features, alone, atol=1e-5, rtol=1e-4)
    half = copy.deepcopy(clip).to(torch.bfloat16).dense(images).features
    assert half.dtype == torch.bfloat16 and torch.cosine_similarity(features, half.float(), dim=1).min() > 0.98
    for change in (lambda own: own.pack(), lambda own: own.lower(torch.bfloat16)):
        own = copy.deepcopy(clip)
        change(own)
        with torch.inference_mode(), own.autocast():
            found = own.dense(images).features
        assert torch.cosine_similarity(features, found.float(), dim=1).min() > 0.98


def test_strides_and_what_it_has():
    assert [tower(family).patch_size for family in FAMILIES] == [32, 64]
    assert all(tower(family).has == {DENSE} for family in FAMILIES)
    with pytest.raises(ConfigError, match=r"SCLIP needs tokens of patches .* use a vision transformer such as"):
        tower(FAMILIES[0]).dense(pictures(64, 64), build_recalibration("SCLIP"))


def test_others_are_refused():
    with pytest.raises(ConfigError, match="ViT-B-16 has no FastViT; expected one such as MobileCLIP-S2"):
        FastViTClip.load("ViT-B-16", "openai")
    with pytest.raises(ConfigError, match="MobileCLIP2-S0 pools by 'max'; expected a FastViT with timm_pool 'avg'"):
        narrow("MobileCLIP2-S0", {"timm_pool": "max"})
