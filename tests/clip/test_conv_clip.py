"""Convolutional CLIPs: levels, and embeddings of masks."""

from __future__ import annotations

import pytest
import torch

from ovseg.clip import ViTClip, convnext
from ovseg.clip.conv_clip import ConvClip
from ovseg.errors import ConfigError, UnknownNameError


@pytest.fixture(params=["tiny_convnext", "tiny_resnet"])
def clip(request):
    return ConvClip.from_folder(request.getfixturevalue(request.param))


def images(size=(64, 96), batch=2):
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(3))


def test_levels(clip):
    levels = clip.levels(images())
    stem = 4 if hasattr(clip.tower, "trunk") else 2
    strides = {"stem": stem, "res2": 4, "res3": 8, "res4": 16, "res5": 32, "dense": 32}
    assert {name: tuple(x.shape) for name, x in levels.items()} == {
        name: (2, clip.channels[name], 64 // stride, 96 // stride) for name, stride in strides.items()
    }


def test_a_convnext_that_holds_less_gives_what_timm_gives(tiny_convnext, monkeypatch):
    clip = ConvClip.from_folder(tiny_convnext)
    monkeypatch.setattr(convnext, "HIDDEN_VALUES", 4 * 24 * 2 * 24 * 3)  # three rows of the first stage
    passes = []
    for block in clip.tower.trunk.stages[0].blocks:
        block.mlp.register_forward_hook(lambda _, given, __: passes.append(given[0].shape[1]))
    expected = clip.levels(images())
    assert set(passes) == {16}  # with gradients all rows at once
    passes.clear()
    with torch.inference_mode():
        found = clip.levels(images())
    assert set(passes) == {3, 1} and sum(passes) == 16 * len(clip.tower.trunk.stages[0].blocks)
    for name, level in expected.items():
        torch.testing.assert_close(found[name], level)


@pytest.mark.parametrize("autocast", [False, True])
def test_a_convnext_in_half_precision_keeps_the_dtypes_of_timm(tiny_convnext, autocast):
    clip = ConvClip.from_folder(tiny_convnext)
    clip = clip if autocast else clip.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, autocast):
        expected = clip.levels(images())
        with torch.no_grad():
            found = clip.levels(images())
    for name, level in expected.items():
        assert found[name].dtype == level.dtype, name
        torch.testing.assert_close(found[name], level, atol=0.1, rtol=0.05)


def test_the_mean_of_a_convnext_under_a_full_mask_is_its_image_embedding(tiny_convnext):
    clip = ConvClip.from_folder(tiny_convnext)
    pooled = clip.pool(clip.levels(images())["dense"], torch.ones(2, 1, 4, 4))
    torch.testing.assert_close(pooled[:, 0], clip.model.encode_image(images()))


def test_a_resnet_attends_to_the_pixels_of_the_mask_alone(tiny_resnet):
    """What lies outside of a mask reaches its embedding by the query only, which is the mean of the image."""
    clip = ConvClip.from_folder(tiny_resnet)
    dense = clip.levels(images((64, 64), 1))["dense"]
    masks = torch.tensor([[[[5.0, -5], [-5, -5]], [[-5.0, -5], [-5, 5]]]])
    pool = clip.tower.attention
    found = clip.pool(dense, masks)
    for i, place in ((0, 0), (1, 3)):  # with one key its weight is 1, whatever the query
        key = dense.flatten(2)[0, :, place] + pool.positional_embedding[1 + place]
        torch.testing.assert_close(found[0, i], pool.c_proj(pool.v_proj(key)))


def test_empty_masks_give_finite_embeddings(clip):
    dense = clip.levels(images())["dense"]
    found = clip.pool(dense, torch.full((2, 3, 16, 24), -1.0))
    assert found.isfinite().all() and torch.equal(found[0, 0], found[1, 2])
    if not hasattr(clip.tower, "trunk"):
        torch.testing.assert_close(found[0, 0], clip.tower.attention.c_proj.bias)


def test_it_is_frozen_and_stays_in_evaluation(clip):
    assert not any(parameter.requires_grad for parameter in clip.parameters())
    assert not clip.train().training
    assert not clip.levels(images())["dense"].requires_grad


def test_texts_hash_and_half_precision(clip):
    assert clip.text(["a cat", "a dog"]).shape == (2, clip.embed_dim) == (2, 16)
    assert clip.text([]).shape == (0, 16)
    before = clip.weights_hash
    clip.model.logit_scale.data.fill_(2.0)
    assert clip.weights_hash == before
    clip.refresh()
    assert clip.weights_hash != before and clip.logit_scale == pytest.approx(7.389, abs=1e-3)
    half = clip.to(torch.bfloat16)
    levels = half.levels(images())
    assert levels["dense"].dtype == half.pool(levels["dense"], torch.randn(2, 3, 8, 8)).dtype == torch.bfloat16


def test_other_towers_are_refused(tiny_clip, tiny_convnext):
    with pytest.raises(ConfigError, match="has a vision transformer; expected a ConvNeXt or ResNet"):
        ConvClip.from_folder(tiny_clip)
    with pytest.raises(ConfigError, match="the timm tower test_convnext; expected a vision transformer"):
        ViTClip.from_folder(tiny_convnext)
    with pytest.raises(ConfigError, match="timm tower vit_"):
        ConvClip.load("ViT-B-16-SigLIP", "webli")


def test_an_empty_clip_takes_no_memory_and_masks_the_future_of_texts():
    clip = ConvClip.empty("RN50-quickgelu")
    assert clip.device.type == "meta" and clip.weights_hash == ""
    mask = clip.model.attn_mask
    assert mask.device.type == "cpu" and mask.shape == (77, 77)
    assert (mask[1, :2] == 0).all() and mask[1, 2] == -torch.inf
    with pytest.raises(UnknownNameError, match="RN50"):
        ConvClip.empty("RN51")
