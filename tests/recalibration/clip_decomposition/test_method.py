"""The parts of an image embedding: they add up, whatever the CLIP; the paper's mask; what is refused."""

from __future__ import annotations

import pytest
import torch

from ovseg.clip import ViTClip
from ovseg.clip.open_clip_internals import build_model
from ovseg.errors import ConfigError
from ovseg.recalibration import build_recalibration
from ovseg.recalibration.clip_decomposition.ledger import decompose
from ovseg.recalibration.clip_decomposition.method import heatmap, relevance
from tests.words import make_words


def make(layers: int = 3, **vision: object) -> ViTClip:
    own = {"image_size": 32, "patch_size": 8, "layers": layers, "width": 24, "head_width": 8, **vision}
    text = {"context_length": 8, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 1}
    config = {"embed_dim": 16, "quick_gelu": True, "vision_cfg": own, "text_cfg": text}
    torch.manual_seed(5)
    model = build_model(config, "test")
    for parameter in model.visual.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return ViTClip.from_config(config, model.state_dict(), "test")


@pytest.mark.parametrize(
    ("layers", "vision", "size"),
    [
        (3, {}, (32, 32)),
        (1, {}, (40, 24)),
        (5, {"ls_init_value": 0.3}, (32, 48)),
        (2, {"no_ln_pre": True, "norm_kwargs": {"eps": 1e-3}}, (16, 64)),
    ],
)
def test_all_parts_add_up_to_the_unit_embedding(layers, vision, size):
    clip, images = make(layers, **vision), torch.randn(2, 3, *size)
    parts = decompose(clip, images, layers=range(layers))
    unit = torch.nn.functional.normalize(clip.dense(images, build_recalibration("clip")).cls, dim=-1)
    torch.testing.assert_close(parts.tokens.sum(1) + parts.mlps.sum(1), unit, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(parts.heads.sum((1, 2)), parts.tokens.sum(1), atol=1e-5, rtol=1e-4)
    by_layer = torch.stack([parts.layers[layer] for layer in range(layers)], 1)  # (B, L, N, H, D)
    torch.testing.assert_close(by_layer.sum(2), parts.heads, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(by_layer.sum((1, 3)), parts.tokens, atol=1e-5, rtol=1e-4)


def test_the_stream_of_clip_is_unchanged_and_scores_have_mean_zero_over_texts():
    clip, images, texts = make(), torch.randn(2, 3, 40, 32), torch.randn(4, 16)
    method = build_recalibration("clip_decomposition")
    dense = clip.dense(images, method)
    torch.testing.assert_close(dense.cls, clip.dense(images, build_recalibration("clip")).cls)
    scores = method.patch_scores(dense, make_words(texts, torch.arange(4)))
    torch.testing.assert_close(scores.mean(1), torch.zeros(2, 5, 4), atol=1e-6, rtol=0)
    torch.testing.assert_close(scores.argmax(1), heatmap(dense, texts).argmax(1))


def test_relevance_is_of_each_image_alone_and_a_constant_map_is_nowhere():
    heat, chosen = torch.randn(2, 3, 4, 5), torch.tensor([2, 0])
    maps, mask = relevance(heat, chosen, 8)
    assert maps.shape == mask.shape == (2, 32, 40)
    assert maps.amin((1, 2)).tolist() == [0, 0] and maps.amax((1, 2)).tolist() == [1, 1]
    alone = torch.cat([relevance(heat[i : i + 1], chosen[i : i + 1], 8)[0] for i in range(2)])
    torch.testing.assert_close(maps, alone)
    nothing, nowhere = relevance(torch.ones(1, 3, 4, 5), torch.tensor([1]), 8)
    assert not nothing.any() and not nowhere.any()


@pytest.mark.parametrize("option", ["residual", "feed_forward"])
def test_another_stream_than_that_of_clip_is_refused(option):
    with pytest.raises(ConfigError, match="leave residual and feed_forward at true"):
        build_recalibration("clip_decomposition", **{option: False})


def test_towers_that_are_no_such_sum_are_refused():
    method, images = build_recalibration("clip_decomposition"), torch.randn(1, 3, 32, 32)
    with pytest.raises(
        ConfigError, match=r"needs a class token that becomes its embedding .* use one that pools by its class token"
    ):
        make(pool_type="avg").dense(images, method)
    with pytest.raises(
        ConfigError, match=r"needs attention that is a sum over its heads.* use one without norms behind"
    ):
        make(block_type="custom", scale_attn=True).dense(images, method)
    with pytest.raises(ConfigError, match=r"layer 3 cannot be kept; expected 0 to 2"):
        decompose(make(), images, layers=[3])
