"""Models of transformers from inside: other sizes than the trained one, texts of any length, identity, threads."""

from __future__ import annotations

import copy
import threading

import pytest
import torch

from ovseg.clip.hf.clip import HfClip
from ovseg.clip.tokens import CLASS_EMBEDDING
from ovseg.recalibration import build_recalibration
from tests.clip.narrow_hf import KINDS, image_features, model_of, save, text_features

TEXTS = ["a", "a photo of a cat", "the sky over a house and a dog on the road", "猫", "Himmel über der Straße"]


def pictures(height=64, width=64, count=2):
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module", params=list(KINDS))
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def folder(kind, tmp_path_factory):
    model, tokenizer = model_of(kind)
    return save(tmp_path_factory.mktemp("hf") / kind, model, tokenizer)


@pytest.fixture(scope="module")
def clip(folder):
    return HfClip.from_folder(folder)


@pytest.mark.parametrize("size", [(64, 64), (48, 96), (32, 80)])
def test_other_sizes_are_embedded_as_transformers_does(clip, kind, size):
    """It resizes tables as the rule ``bicubic_by_grid``, NaFlex by its own, whatever the method wants."""
    dense = clip.dense(pictures(*size), build_recalibration("CLIP", pos_resize="bicubic_by_grid"))
    assert dense.grid == (size[0] // 16, size[1] // 16)
    torch.testing.assert_close(dense.cls, image_features(clip.model, pictures(*size)), atol=1e-4, rtol=1e-4)
    other = clip.dense(pictures(*size), build_recalibration("CLIP", pos_resize="bilinear"))
    assert torch.allclose(other.cls, dense.cls) == (size == (64, 64) or kind == "siglip2")


def test_patches_are_embedded_as_the_image_is(clip):
    """By the head of the source: of CLIP its norm and projection, of SigLIP the pool that looks at one token alone."""
    dense, vision = clip.dense(pictures()), clip.model.vision_model
    if CLASS_EMBEDDING in clip.has:
        tokens = vision(pictures()).last_hidden_state[:, 1:]
        expected = clip.model.visual_projection(vision.post_layernorm(tokens))
    else:
        tokens = clip.embed(pictures(), "bicubic")[0]
        for block in clip.blocks:
            tokens = block(tokens)
        lone = vision.post_layernorm(tokens).flatten(0, 1)[:, None]
        expected = vision.head(lone).unflatten(0, tokens.shape[:2])
    torch.testing.assert_close(dense.features.flatten(2).mT, expected, atol=1e-4, rtol=1e-4)


def test_texts_of_any_length_are_embedded_as_transformers_does(clip, monkeypatch):
    tokens = clip.text_tokens(TEXTS)
    assert tokens.shape == (len(TEXTS), clip.text_limit)
    expected = text_features(clip.model, tokens)
    torch.testing.assert_close(clip.text(TEXTS), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(torch.cat([clip.text([text]) for text in TEXTS]), expected, atol=1e-5, rtol=1e-4)
    monkeypatch.setattr("ovseg.clip.hf.texts.TEXTS_PER_PASS", 2)
    torch.testing.assert_close(clip.text(TEXTS), expected, atol=1e-5, rtol=1e-4)
    assert clip.text([]).shape == (0, clip.embed_dim)


def test_padding_is_not_computed_where_no_text_sees_it(clip, kind):
    lengths = []
    layers = clip.model.text_model.roberta.encoder if kind == "altclip" else clip.model.text_model.encoder
    block = getattr(layers, "layers", None) or layers.layer
    hook = block[0].register_forward_hook(lambda module, given, found: lengths.append(found[0].shape[-2]))
    try:
        clip.text(["a cat"])
    finally:
        hook.remove()
    expected = {"altclip": [4], "chinese_clip": [4], "siglip": [16], "siglip2": [16]}
    assert lengths == expected.get(kind, [])  # the tree of prefixes calls no block


@pytest.mark.parametrize("kind", ["clip", "altclip", "siglip"], indirect=True)
def test_long_texts_are_read_in_windows(clip):
    text = " ".join(["a cat and a dog"] * 12)
    assert clip.count_tokens([text])[0] > clip.text_limit
    windows = clip.text_tokens.windows(text)
    assert len(windows) > 1
    expected = text_features(clip.model, windows).mean(0)
    torch.testing.assert_close(clip.long_text([text])[0], expected, atol=1e-5, rtol=1e-4)


def test_scale_bias_and_activation(clip, kind):
    assert clip.logit_scale == pytest.approx(float(clip.model.logit_scale.exp()), rel=1e-6)
    bias = float(clip.model.logit_bias) if kind.startswith("siglip") else 0.0
    assert clip.logit_bias == pytest.approx(bias)
    assert clip.activation == clip.model.config.vision_config.hidden_act
    assert clip.mean == ((0.5,) * 3 if kind.startswith("siglip") else (0.48145466, 0.4578275, 0.40821073))


def test_the_hash_is_of_weights_config_and_words(clip, kind, folder, tmp_path):
    model, tokenizer = model_of(kind)
    again = HfClip.from_folder(save(tmp_path / "elsewhere", model, tokenizer))
    assert again.weights_hash == clip.weights_hash and again.name == "elsewhere"
    model.config.vision_config.hidden_act = "relu"
    assert HfClip.from_folder(save(tmp_path / "relu", model, tokenizer)).weights_hash != clip.weights_hash
    model.config.vision_config.hidden_act = clip.activation
    tokenizer.add_tokens(["cat"])
    assert HfClip.from_folder(save(tmp_path / "words", model, tokenizer)).weights_hash != clip.weights_hash


def test_texts_and_images_at_once_in_threads(clip):
    images, expected = pictures(), clip.dense(pictures()).features
    rows, wrong = clip.text(TEXTS), []

    def work():
        for _ in range(3):
            clip.move_text(torch.device("cpu"))
            wrong.extend(["text"] * (not torch.allclose(clip.text(TEXTS), rows, atol=1e-6)))
            wrong.extend(["image"] * (not torch.equal(clip.dense(images).features, expected)))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_text_tower_goes_alone(clip):
    own = copy.deepcopy(clip)
    own.move_text(torch.device("meta"))
    on_meta = {key for key, value in own.model.named_parameters() if value.is_meta}
    assert on_meta == {key for key, _ in own.model.named_parameters() if key.startswith("text_")}
    assert own.dense(pictures()).features.isfinite().all()


def test_half_precision_of_texts(clip):
    half = copy.deepcopy(clip).to(torch.bfloat16)
    rows = half.text(TEXTS)
    assert rows.dtype == torch.bfloat16
    assert torch.cosine_similarity(rows.float(), clip.text(TEXTS), dim=1).min() > 0.98
