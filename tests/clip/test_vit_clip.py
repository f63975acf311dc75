"""The frozen CLIP: equal to open_clip, any size, any dtype, and what it records."""

from __future__ import annotations

import copy

import open_clip
import pytest
import torch

from ovseg.clip import Need, ViTClip
from ovseg.clip.open_clip_internals import build_model
from ovseg.errors import ConfigError, InputError
from ovseg.recalibration import build_recalibration

CONFIG = {
    "embed_dim": 24,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 64, "patch_size": 16, "layers": 7, "width": 32, "head_width": 8},
    "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 2},
}


def make(**vision: object) -> tuple[ViTClip, torch.nn.Module]:
    """Return a frozen CLIP with random weights, and open_clip's own model with the same."""
    torch.manual_seed(1)
    config = copy.deepcopy(CONFIG)
    config["vision_cfg"].update(vision)
    model = build_model(config, "test").eval()
    for parameter in model.visual.parameters():  # norms and biases start at 1 and 0, which would hide mistakes
        parameter.data += 0.1 * torch.randn_like(parameter)
    return ViTClip.from_config(config, model.state_dict(), "test"), model


@pytest.fixture(scope="module")
def clip() -> ViTClip:
    return make()[0]


@pytest.mark.parametrize(
    "vision",
    [
        {},
        {"pool_type": "avg"},
        {"pool_type": "avg", "final_ln_after_pool": True},
        {"ls_init_value": 0.3},
        {"no_ln_pre": True},
        {"mlp_ratio": 2.0, "patch_size": 8, "image_size": [64, 32]},
        {"norm_kwargs": {"eps": 1e-6}},
    ],
)
def test_equals_encode_image(vision):
    clip, model = make(**vision)
    size = vision.get("image_size", 64)
    images = torch.randn(2, 3, *([size, size] if isinstance(size, int) else size))
    expected = model.encode_image(images)
    for recalibration in (None, build_recalibration("clip")):
        torch.testing.assert_close(clip.dense(images, recalibration).cls, expected, atol=2e-5, rtol=1e-4)


def test_equals_encode_image_with_open_clips_own_attention():
    clip, model = make(qk_norm=True, scale_heads=True, scale_attn=True, scale_fc=True, scale_attn_inner=True)
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(clip.dense(images).cls, model.encode_image(images), atol=2e-5, rtol=1e-4)


def test_published_architecture_equals_open_clip():
    model = open_clip.create_model("ViT-B-32-quickgelu").eval()
    config = open_clip.get_model_config("ViT-B-32-quickgelu")
    clip = ViTClip.from_config(config, model.state_dict())
    images = torch.randn(1, 3, 224, 224)
    torch.testing.assert_close(clip.dense(images).cls, model.encode_image(images), atol=2e-5, rtol=1e-4)
    assert (clip.patch_size, clip.depth, clip.embed_dim, clip.image_size) == (32, 12, 512, 224)
    assert clip.logit_scale == pytest.approx(1 / 0.07, rel=1e-4)


def test_text_equals_encode_text(clip):
    tokens = open_clip.SimpleTokenizer(context_length=20)(["a cat", "a red chair"])
    torch.testing.assert_close(clip.text(["a cat", "a red chair"]), clip.model.encode_text(tokens))
    assert clip.text(["cat"]).shape == (1, 24)
    assert clip.text([]).shape == (0, 24)
    assert clip.text(["word " * 5000]).isfinite().all()


def test_text_tower_with_too_few_tokens_is_named():
    config = copy.deepcopy(CONFIG)
    config["text_cfg"]["vocab_size"] = 100
    clip = ViTClip.from_config(config, build_model(config, "small").state_dict(), "small")
    with pytest.raises(ConfigError, match="has 100 tokens but the tokenizer gives 49407"):
        clip.text(["cat"])


@pytest.mark.parametrize(
    ("size", "grid"), [((64, 64), (4, 4)), ((70, 101), (4, 6)), ((16, 333), (1, 20)), ((128, 32), (8, 2))]
)
def test_any_size(clip, size, grid):
    dense = clip.dense(torch.randn(1, 3, *size))
    assert dense.features.shape == (1, 24, *grid)
    assert dense.grid == grid
    assert dense.features.isfinite().all()


def test_pixels_beyond_the_last_patch_do_not_matter(clip):
    images = torch.randn(1, 3, 75, 79)
    torch.testing.assert_close(clip.dense(images).features, clip.dense(images[..., :64, :64]).features)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    clip, _ = make()
    images = torch.randn(1, 3, 80, 64)
    full = clip.dense(images).features
    half = clip.to(dtype).dense(images).features
    assert half.dtype == dtype
    assert torch.cosine_similarity(full, half.float(), dim=1).min() > 0.99
    assert clip.text(["a cat"]).dtype == dtype


def test_it_stays_frozen_and_in_evaluation_mode(clip):
    assert not clip.train().training
    assert not any(module.training for module in clip.modules())
    assert not any(parameter.requires_grad for parameter in clip.parameters())
    assert not clip.dense(torch.randn(1, 3, 64, 64)).features.requires_grad


def test_gradients_reach_images_that_ask_for_them(clip):
    images = torch.randn(1, 3, 64, 64, requires_grad=True)
    clip.dense(images).features.sum().backward()
    assert images.grad.abs().sum() > 0


def test_recording_changes_nothing_and_is_right(clip):
    images = torch.randn(2, 3, 64, 64)
    need = Need(hidden=(0, 2, -1), attention=(1,))
    dense = clip.dense(images, need=need)
    torch.testing.assert_close(dense.features, clip.dense(images).features, atol=2e-5, rtol=1e-4)
    assert sorted(dense.context.hidden) == [0, 2, 6]
    assert list(dense.context.attention) == [1]
    weights = dense.context.attention[1]
    assert weights.shape == (2, 4, 17, 17)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 17))
    block = clip.model.visual.transformer.resblocks[1]
    normed = block.ln_1(dense.context.hidden[0])
    attn = torch.nn.MultiheadAttention(32, 4, batch_first=True)
    attn.load_state_dict(block.attn.state_dict())
    expected = attn(normed, normed, normed, average_attn_weights=False)[1]
    torch.testing.assert_close(weights, expected, atol=1e-5, rtol=1e-4)


def test_handed_over_blocks_cannot_be_recorded(clip):
    with pytest.raises(ConfigError, match="block 6 cannot be recorded; expected 0 to 5 of 7"):
        clip.dense(torch.randn(1, 3, 64, 64), build_recalibration("sclip"), Need(hidden=(-1,)))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.randn(3, 64, 64), r"got images of shape \(3, 64, 64\)"),
        (torch.randn(1, 1, 64, 64), r"got images of shape \(1, 1, 64, 64\)"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), "uint8; expected floating point"),
        (torch.randn(1, 3, 64, 8), "got 8 x 64 pixels; expected images of at least 16 a side"),
    ],
)
def test_wrong_images_are_named(clip, images, message):
    with pytest.raises(InputError, match=message):
        clip.dense(images)


def test_hash_follows_weights_and_activation():
    clip, model = make()
    again = ViTClip.from_config(CONFIG, model.state_dict(), "another name")
    assert again.weights_hash == clip.weights_hash
    assert len(clip.weights_hash) == 16
    exact = ViTClip.from_config({**CONFIG, "quick_gelu": False}, model.state_dict())
    assert exact.weights_hash != clip.weights_hash
    model.visual.proj.data[0, 0] += 1e-3
    assert ViTClip.from_config(CONFIG, model.state_dict()).weights_hash != clip.weights_hash


def test_cosines_are_cosines(clip):
    dense = clip.dense(torch.randn(2, 3, 64, 80))
    texts = torch.nn.functional.normalize(torch.randn(5, 24), dim=1)
    cosines = dense.cosines(texts)
    assert cosines.shape == (2, 5, 4, 5)
    expected = torch.cosine_similarity(dense.features[1, :, 2, 3], texts, dim=1)
    torch.testing.assert_close(cosines[1, :, 2, 3], expected)
