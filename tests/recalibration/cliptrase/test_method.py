"""CLIPtrase beyond its golden cases: what its options do, other depths, precision, and labels through the model."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ovseg.clip import ViTClip
from ovseg.clip.open_clip_internals import build_model
from ovseg.contract import Words
from ovseg.errors import ConfigError
from ovseg.recalibration import build_recalibration
from ovseg.recalibration.cliptrase.method import Affinity, denoise, self_correlation
from ovseg.zoo import load
from tests.words import make_words


@pytest.fixture(scope="module", params=[2, 5])
def clip(request) -> ViTClip:
    config = {
        "embed_dim": 12,
        "vision_cfg": {"image_size": 32, "patch_size": 8, "layers": request.param, "width": 16, "head_width": 8},
        "text_cfg": {"context_length": 4, "vocab_size": 8, "width": 8, "heads": 1, "layers": 1},
    }
    torch.manual_seed(5)
    model = build_model(config, "test")
    for parameter in model.visual.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return ViTClip.from_config(config, model.state_dict(), "test")


def queries(count: int) -> Words:
    return make_words(F.normalize(torch.randn(count, 12), dim=1), torch.arange(count))


def test_self_correlation_is_the_mean_cosine():
    q, k, v = (torch.randn(2, 3, 6, 4) for _ in range(3))
    cosines = [F.cosine_similarity(z[..., :, None, :], z[..., None, :, :], dim=-1).mean(1) for z in (q, k, v)]
    torch.testing.assert_close(self_correlation(q, k, v), sum(cosines) / 3)
    zero = torch.zeros(1, 1, 2, 4)
    assert self_correlation(zero, zero, zero).eq(0).all()
    assert self_correlation(q.bfloat16(), k.bfloat16(), v.bfloat16()).dtype == torch.float32


def test_denoising_takes_the_row_of_the_class_token_from_all(clip):
    correlation = torch.tensor([[[1.0, 0.2, 0.6], [0.3, 1.0, 0.5], [0.4, 0.9, 1.0]]])
    torch.testing.assert_close(denoise(clip, correlation), torch.tensor([[[0.8, 0.0], [0.7, 0.4]]]))


def test_regions_of_a_batch_are_those_of_its_images(clip):
    images = torch.randn(3, 3, 40, 56)
    method = build_recalibration("cliptrase", eps=0.6, min_samples=2)
    together = method.region_maps(clip.dense(images, method), queries(2))
    assert len(together) == 3
    for image, maps in zip(images, together, strict=True):
        alone = method.region_maps(clip.dense(image[None], method), queries(2))[0]
        assert maps.shape[1:] == (20, 28)
        torch.testing.assert_close(maps, alone, atol=1e-5, rtol=1e-4)


def test_noise_alone_has_no_region(clip):
    method = build_recalibration("cliptrase", eps=1e-6, min_samples=3)
    assert method.region_maps(clip.dense(torch.randn(1, 3, 32, 48), method), queries(2))[0].shape == (0, 16, 24)


@pytest.mark.parametrize(("side", "eps", "least"), [(14, 0.7, 3), (21, 1.1, 7)])
def test_the_published_settings_lie_on_the_law(clip, monkeypatch, side, eps, least):
    used = []
    monkeypatch.setattr("ovseg.recalibration.cliptrase.method.soft_regions", lambda *given: used.append(given[2:]))
    method = build_recalibration("cliptrase")
    method.region_maps(clip.dense(torch.randn(1, 3, 8 * side, 8 * side), method), queries(2))
    assert used[0] == (pytest.approx(eps, abs=1e-3), least)


def test_scores(clip):
    texts = queries(4)
    dense = clip.dense(torch.randn(2, 3, 32, 40), build_recalibration("cliptrase"))
    cosines = dense.cosines(texts.embeddings)
    cls = F.normalize(dense.cls, dim=1) @ texts.embeddings.mT

    def scores(**options: bool) -> torch.Tensor:
        return build_recalibration("cliptrase", **options).patch_scores(dense, texts)

    torch.testing.assert_close(scores(), cosines)
    torch.testing.assert_close(scores(cls_modulation=True), cosines * cls[..., None, None])
    products = torch.einsum("bchw,tc->bthw", dense.features, texts.embeddings)
    torch.testing.assert_close(scores(normalise=False), products)
    factor = (dense.cls @ texts.embeddings.mT)[..., None, None]
    torch.testing.assert_close(scores(normalise=False, cls_modulation=True), products * factor)


def test_scores_of_texts_that_differ_by_image(clip, monkeypatch):
    texts = queries(4)
    rows = F.normalize(torch.randn(2, 4, 12), dim=2)
    monkeypatch.setattr(Words, "rows", lambda self, cls: rows)
    method = build_recalibration("cliptrase", cls_modulation=True)
    dense = clip.dense(torch.randn(2, 3, 32, 40), method)
    together = method.patch_scores(dense, texts)
    for index in range(2):
        monkeypatch.setattr(Words, "rows", lambda self, cls, own=rows[index]: own)
        torch.testing.assert_close(method.patch_scores(dense, texts)[index], together[index])


def test_options_act_in_the_last_block(clip):
    image = torch.randn(1, 3, 32, 32)
    plain = clip.dense(image, build_recalibration("cliptrase"))
    for option in ("residual", "feed_forward"):
        changed = clip.dense(image, build_recalibration("cliptrase", **{option: False}))
        assert (changed.features - plain.features).abs().max() > 1e-3
        assert torch.equal(changed.context.kept(Affinity).of_patches, plain.context.kept(Affinity).of_patches)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eps": -0.1}, "eps is -0.1; expected at least 0"),
        ({"min_samples": 0}, "min_samples is 0; expected at least 1"),
        ({"min_samples": 2.5}, r"min_samples is 2.5 \(float\); expected None or int"),
        ({"normalize": True}, "unknown option 'normalize' of CLIPtrase; did you mean normalise"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ConfigError, match=message):
        build_recalibration("cliptrase", **options)


def test_windows_are_refused():
    with pytest.raises(ConfigError, match="CLIPtrase sees the whole image at once but WINDOW is 64; set it to 0"):
        load("cliptrase/mini", overrides={"MODEL": {"PROTOCOL": {"WINDOW": 64, "STRIDE": 64}}})
