"""CLIP Surgery beyond its golden cases: its streams, its kinds of surgery, other depths and pooling."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ovseg.clip import ViTClip
from ovseg.clip.open_clip_internals import build_model
from ovseg.contract import Words
from ovseg.errors import ConfigError, UnknownNameError
from ovseg.recalibration import build_recalibration
from ovseg.recalibration.clip_surgery.method import without_shared
from ovseg.vocabulary.embedder import TextEmbedder
from tests.words import make_words


def build(**vision: object) -> ViTClip:
    config = {
        "embed_dim": 12,
        "vision_cfg": {"image_size": 32, "patch_size": 8, "layers": 7, "width": 16, "head_width": 8, **vision},
        "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1},
    }
    torch.manual_seed(5)
    model = build_model(config, "test")
    for parameter in model.visual.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return ViTClip.from_config(config, model.state_dict(), "test")


@pytest.fixture(scope="module")
def clip() -> ViTClip:
    return build()


def queries(count: int) -> Words:
    return make_words(F.normalize(torch.randn(count, 12), dim=1), torch.arange(count))


@pytest.mark.parametrize("pool", ["tok", "avg"])
@pytest.mark.parametrize("size", [(32, 32), (24, 80)])
def test_the_embedding_of_the_image_is_that_of_clip(pool, size):
    clip = build(pool_type=pool)
    images = torch.randn(2, 3, *size)
    plain = clip.dense(images, build_recalibration("clip", pos_resize="bilinear"))
    torch.testing.assert_close(clip.dense(images, build_recalibration("clip_surgery")).cls, plain.cls)


@pytest.mark.parametrize("blocks", [1, 3, 7])
def test_the_second_stream_adds_what_each_block_attends_to(clip, blocks):
    images = torch.randn(2, 3, 32, 48)
    found = clip.dense(images, build_recalibration("clip_surgery", last_n_layers=blocks))
    tokens, grid = clip.tower.embed(images, "bilinear")
    for block in clip.blocks[:-blocks]:
        tokens = block(tokens)
    stream = tokens
    for block in clip.blocks[-blocks:]:
        value = block.qkv(tokens)[2]
        stream = stream + block.project((value @ value.mT * block.scale).softmax(-1) @ value)
        tokens = block(tokens)
    expected = clip.tower.head(stream)[0][:, 1:].mT.unflatten(-1, grid)
    torch.testing.assert_close(found.features, expected, atol=1e-5, rtol=1e-4)


def test_the_class_set_surgery_is_that_of_the_paper():
    features = F.normalize(torch.randn(2, 5, 12), dim=2)  # the class token first
    texts = queries(4).embeddings
    weights = (2 * features[:, 0] @ texts.mT).softmax(-1)
    weights = weights / weights.mean(-1, keepdim=True)
    products = torch.einsum("bnc,tc,bt->bntc", features, texts, weights)
    expected = (products - products.mean(2, keepdim=True)).sum(-1)
    cosines = (features[:, 1:] @ texts.mT).mT.unflatten(2, (2, 2))
    found = without_shared(cosines, features[:, 0] @ texts.mT)
    torch.testing.assert_close(found.flatten(2).mT, expected[:, 1:])


@pytest.mark.parametrize("surgery", ["class_set", "redundant", "none"])
def test_maps_are_stretched_image_by_image(clip, surgery):
    method = build_recalibration("clip_surgery", surgery=surgery)
    dense = method.encode(clip, torch.randn(2, 3, 32, 48))
    scores = method.patch_scores(dense, queries(5))
    assert scores.amin((2, 3)).eq(0).all()
    torch.testing.assert_close(scores.amax((2, 3)), torch.ones(2, 5))
    raw = build_recalibration("clip_surgery", surgery=surgery, min_max=False)
    assert raw.patch_scores(dense, queries(5)).min() < 0


def test_the_empty_text_is_embedded_once_and_subtracted(clip, monkeypatch):
    asked = []
    embed = TextEmbedder.embed
    monkeypatch.setattr(TextEmbedder, "embed", lambda self, texts: asked.append(texts) or embed(self, texts))
    options = {"surgery": "redundant", "redundant_templates": "simple", "min_max": False}
    method, texts = build_recalibration("clip_surgery", **options), queries(3)
    dense, empty = method.encode(clip, torch.randn(1, 3, 32, 32)), embed(TextEmbedder(clip, "simple"), [""])
    for _ in range(2):
        torch.testing.assert_close(method.patch_scores(dense, texts), dense.cosines(texts.embeddings - empty))
    assert asked == [[""]]
    assert "empty_texts" not in method.options


def test_one_text_has_nothing_to_differ_from(clip):
    method = build_recalibration("clip_surgery")
    scores = method.patch_scores(clip.dense(torch.randn(1, 3, 32, 32), method), queries(1))
    assert scores.eq(0).all()
    other = build_recalibration("clip_surgery", surgery="none")
    assert other.patch_scores(clip.dense(torch.randn(1, 3, 32, 32), other), queries(1)).max() == 1


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"surgery": "class"}, ConfigError, "surgery is 'class'; expected one of class_set, redundant, none"),
        ({"last_n_layers": 0}, ConfigError, "last_n_layers is 0; expected at least 1"),
        ({"redundant_templates": "openai81"}, UnknownNameError, "unknown template set 'openai81'; did you mean"),
    ],
)
def test_wrong_options(options, error, message):
    with pytest.raises(error, match=message):
        build_recalibration("clip_surgery", **options)


def test_a_clip_of_too_few_blocks_is_refused():
    with pytest.raises(ConfigError, match="CLIP_Surgery changes the last 6 blocks but test has 4"):
        build(layers=4).dense(torch.randn(1, 3, 32, 32), build_recalibration("clip_surgery"))
