"""Convolutional CLIPs: levels, and embeddings of masks."""

from __future__ import annotations

import pickle

import pytest
import torch

from ovseg.clip import ViTClip, convnext
from ovseg.clip.conv_clip import ConvClip
from ovseg.contract import CLASS_SCORES
from ovseg.data.preprocessing import SizeRule
from ovseg.errors import ConfigError, UnknownNameError
from ovseg.labelling.protocol import Protocol
from ovseg.labelling.scores import ScoreRule
from ovseg.meta_arch.training_free import TrainingFree
from ovseg.recalibration import build_recalibration
from ovseg.vocabulary import Vocabulary


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
    with pytest.raises(ConfigError, match="the image tower is timm's ConvNeXt; expected blocks of plain attention"):
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


SIZES = [(64, 64), (64, 96), (70, 110)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["CLIP", "MaskCLIP", "RedCircle"])
def test_methods_of_features_alone_run_on_any_size_and_in_any_company(clip, name, size):
    method, pictures = build_recalibration(name), images(size)
    with torch.inference_mode():
        together = method.encode(clip, pictures)
        alone = [method.encode(clip, picture[None]) for picture in pictures]
    assert together.grid == (size[0] // 32, size[1] // 32) and together.features.shape == (2, 16, *together.grid)
    torch.testing.assert_close(together.features, torch.cat([one.features for one in alone]), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(together.cls, torch.cat([one.cls for one in alone]), atol=1e-5, rtol=1e-4)
    even = method.encode(clip, pictures[:, :, : size[0] // 32 * 32, : size[1] // 32 * 32])
    assert torch.equal(together.features, even.features)  # sides are floored


@pytest.mark.parametrize("method", [None, "CLIP", "MaskCLIP"])
def test_the_embedding_of_an_image_is_that_of_open_clip(clip, method):
    dense = clip.dense(images((64, 64)), build_recalibration(method) if method else None)
    torch.testing.assert_close(dense.cls, clip.model.encode_image(images((64, 64))), atol=1e-5, rtol=1e-4)


def test_a_place_of_a_convnext_is_embedded_as_an_image_of_nothing_else(tiny_convnext):
    """The norm stands behind the mean, so that features are no parts of the embedding: only a lone place is it."""
    clip = ConvClip.from_folder(tiny_convnext)
    dense = clip.dense(images())
    trunk = clip.levels(images())["dense"]
    for row, column in ((0, 0), (1, 2)):
        lone = clip.tower.head(clip.tower.trunk.forward_head(trunk[:, :, row : row + 1, column : column + 1]))
        torch.testing.assert_close(dense.features[:, :, row, column], lone)
    one = clip.dense(images((32, 32)))
    torch.testing.assert_close(one.features[:, :, 0, 0], one.cls)


def test_a_resnet_pools_by_attention_or_keeps_values(tiny_resnet):
    """Plain CLIP asks the pool at every place as at the mean; MaskCLIP takes the values alone, without positions."""
    clip = ConvClip.from_folder(tiny_resnet)
    pool, pictures = clip.tower.attention, images((64, 64))
    places = clip.levels(pictures)["dense"].flatten(2).mT
    values = clip.dense(pictures, build_recalibration("MaskCLIP")).features
    torch.testing.assert_close(values.flatten(2).mT, pool.c_proj(pool.v_proj(places)))
    tokens = torch.cat([places.mean(1, keepdim=True), places], 1) + pool.positional_embedding
    whole, _ = torch.nn.functional.multi_head_attention_forward(
        *[tokens.transpose(0, 1)] * 3, tokens.shape[2], pool.num_heads, None,
        torch.cat([pool.q_proj.bias, pool.k_proj.bias, pool.v_proj.bias]), None, None, False, 0.0, pool.c_proj.weight,
        pool.c_proj.bias, training=False, use_separate_proj_weight=True, q_proj_weight=pool.q_proj.weight,
        k_proj_weight=pool.k_proj.weight, v_proj_weight=pool.v_proj.weight,
    )  # fmt: skip
    plain = clip.dense(pictures, build_recalibration("CLIP"))
    torch.testing.assert_close(plain.features.flatten(2).mT, whole[1:].transpose(0, 1))
    torch.testing.assert_close(plain.cls, whole[0])


def test_positions_of_a_resnet_are_resized_by_the_rule_of_the_method(tiny_resnet):
    clip, pictures = ConvClip.from_folder(tiny_resnet), images((96, 128))
    found = [clip.dense(pictures, build_recalibration("CLIP", pos_resize=rule)).cls for rule in ("bicubic", "bilinear")]
    assert not torch.allclose(*found)
    full = clip.pool(clip.levels(pictures)["dense"], torch.ones(2, 1, 96, 128))[:, 0]
    assert not torch.allclose(found[1], full)  # there the mean is not among the keys


@pytest.mark.parametrize("autocast", [False, True])
def test_dense_features_in_half_precision(clip, autocast):
    exact = clip.dense(images()).features
    if autocast:
        clip.lower(torch.bfloat16)
    else:
        clip = clip.to(torch.bfloat16)
    with clip.autocast():
        low = clip.dense(images()).features
    assert low.dtype == torch.bfloat16
    assert torch.nn.functional.cosine_similarity(exact, low.float(), dim=1).min() > 0.98


def test_a_model_on_a_convolutional_tower_runs_from_words_to_labels(clip):
    parts = {
        "size_rule": SizeRule(64, 128, minimum=clip.patch_size),
        "protocol": Protocol(64, 32, "none"),
        "rule": ScoreRule(40.0),
    }
    model = TrainingFree(
        clip=clip, recalibration=build_recalibration("MaskCLIP"), templates="none", background="none", **parts
    ).eval()
    encoded = pickle.loads(pickle.dumps(model.encode([255 * torch.rand(3, 64, 96)])))
    answer = model.answer(
        encoded, 0, (50, 70), model.words(Vocabulary.parse(["cat", "sofa"])), frozenset({CLASS_SCORES})
    )
    assert answer.labels.shape == (50, 70) and answer.class_scores.shape == (2, 50, 70)
    with pytest.raises(ConfigError, match="SCLIP needs tokens of patches"):
        TrainingFree(
            clip=clip, recalibration=build_recalibration("SCLIP"), templates="none", background="none", **parts
        )
