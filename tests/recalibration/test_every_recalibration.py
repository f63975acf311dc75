"""One tester for all registered methods: batch = singles, odd sizes, half precision, one text, options, goldens."""

from __future__ import annotations

import inspect
import textwrap
from pathlib import Path

import pytest
import torch

import ovseg.recalibration as package
from ovseg.clip import DenseFeatures, Need, ViTClip
from ovseg.clip.open_clip_internals import build_model
from ovseg.errors import ConfigError, UnknownNameError
from ovseg.recalibration import (
    RECALIBRATION_REGISTRY,
    Recalibration,
    build_recalibration,
    list_recalibrations,
    recalibration_class,
)
from ovseg.system.registry import register_all
from tests.words import make_words

ROOT = Path(__file__).resolve().parents[2]
NAMES = list_recalibrations()
VARIANTS = [
    *((name, {}) for name in NAMES),
    ("maskclip", {"pd_thresh": 0.5, "ks_thresh": 0.9}),
    ("maskclip", {"residual": False, "feed_forward": False}),
    ("naclip", {"attention": "nonly"}),
    ("naclip", {"attention": "csa", "residual": True, "feed_forward": True}),
    ("clearclip", {"last_n_layers": 3, "model_type": "MaskCLIP"}),
    ("gem", {"depth": 3, "iterations": 2, "temperature": 5}),
    ("gem", {"residual": False, "iterations": 0}),
]
IDS = ["-".join([name, *(f"{key}={value}" for key, value in options.items())]) for name, options in VARIANTS]


@pytest.fixture(scope="module")
def clip() -> ViTClip:
    config = {
        "embed_dim": 24,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 64, "patch_size": 16, "layers": 7, "width": 32, "head_width": 8},
        "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 1},
    }
    torch.manual_seed(3)
    model = build_model(config, "test")
    for parameter in model.visual.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return ViTClip.from_config(config, model.state_dict(), "test")


def scores(clip: ViTClip, method: Recalibration, images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    return method.patch_scores(encode(clip, method, images), make_words(texts, torch.arange(len(texts))))


def encode(clip: ViTClip, method: Recalibration, images: torch.Tensor) -> DenseFeatures:
    """Encode images, with quarters as regions where the method uses regions."""
    across = (torch.arange(side) * 2 // side for side in images.shape[2:])
    rows, columns = (half for half in across)
    regions = (2 * rows[:, None] + columns).expand(len(images), -1, -1)
    return method.encode(clip, images, regions if method.uses_regions else None)


@pytest.mark.parametrize("size", [(64, 64), (70, 101), (16, 48)])
@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=IDS)
def test_batch_equals_singles_at_any_size(clip, name, options, size):
    images, texts = torch.randn(3, 3, *size), torch.randn(5, 24)
    method = build_recalibration(name, **options)
    together = scores(clip, method, images, texts)
    assert together.shape == (3, 5, size[0] // 16, size[1] // 16)
    assert together.isfinite().all()
    alone = torch.cat([scores(clip, method, image[None], texts) for image in images])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=IDS)
def test_one_text(clip, name, options):
    found = scores(clip, build_recalibration(name, **options), torch.randn(1, 3, 64, 64), torch.randn(1, 24))
    assert found.shape == (1, 1, 4, 4)
    assert found.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NAMES)
def test_half_precision(clip, name, dtype):
    images, method = torch.randn(1, 3, 64, 80), build_recalibration(name)
    full = encode(clip, method, images).features
    try:
        half = encode(clip.to(dtype), method.to(dtype), images).features
    finally:
        clip.float()
    assert half.dtype == dtype
    assert torch.cosine_similarity(full, half.float(), dim=1).min() > 0.98


@pytest.mark.parametrize("name", [name for name in NAMES if name != "CLIP"])
def test_a_method_changes_features_and_earlier_blocks_run_as_they_are(clip, name):
    images, method = torch.randn(1, 3, 64, 64), build_recalibration(name)
    plain = clip.dense(images)
    assert (plain.features - encode(clip, method, images).features).abs().max() > 1e-3
    if method.blocks_of(clip.depth) == 1:
        changed = clip.dense(images, method, Need(hidden=(0,)))
        torch.testing.assert_close(changed.context.hidden[0], clip.dense(images, need=Need((0,))).context.hidden[0])


def test_plain_clip_is_clip(clip):
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(clip.dense(images).features, clip.dense(images, build_recalibration("clip")).features)


@pytest.mark.parametrize(
    "name", [name for name in NAMES if recalibration_class(name).attention is not Recalibration.attention]
)
def test_weights_are_those_of_the_attention(clip, name):
    method, images = build_recalibration(name), torch.randn(2, 3, 64, 64)
    dense = clip.dense(images, method)
    tokens, _ = clip.tower.embed(images, "bicubic")
    query, key, value = clip.blocks[-1].qkv(tokens)
    weights = method.weights(query, key, value, dense.context)
    sums = weights.sum(-1)
    torch.testing.assert_close(sums, torch.full_like(sums, float(round(sums[0, 0, 0].item()))))
    mixed = method.attention(query, key, value, dense.context)
    torch.testing.assert_close(weights @ value, mixed, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_every_method_has_a_golden_or_says_why_not(name):
    cases = list((ROOT / "tests" / "golden" / name.lower()).glob("*.json"))
    runner = ROOT / "tools" / "golden_runners" / f"{name.lower()}.py"
    method = recalibration_class(name)
    assert (cases and runner.is_file()) or method.without_golden, f"{name} has neither a golden case nor a reason"


@pytest.mark.parametrize("name", NAMES)
def test_every_method_is_short_and_cites(name):
    method = recalibration_class(name)
    assert "github.com/" in (method.__doc__ or "")
    assert len(inspect.getsource(method).splitlines()) <= 100


def test_a_new_file_registers_itself(tmp_path, monkeypatch):
    (tmp_path / "brand_new.py").write_text(
        textwrap.dedent(
            """
            from ovseg.recalibration.base import RECALIBRATION_REGISTRY, Recalibration

            @RECALIBRATION_REGISTRY.register()
            class BrandNew(Recalibration):
                without_golden = "a test"
            """
        )
    )
    monkeypatch.setattr(package, "__path__", [*package.__path__])
    monkeypatch.setenv("OVSEG_METHODS", str(tmp_path))
    try:
        register_all("ovseg.recalibration", "OVSEG_METHODS")
        assert build_recalibration("brandnew").name == "BrandNew"
    finally:
        RECALIBRATION_REGISTRY._obj_map.pop("BrandNew", None)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("naclip", {"gausian_std": 3.0}, "unknown option 'gausian_std' of NACLIP; did you mean gaussian_std"),
        ("naclip", {"gaussian_std": "3"}, r"gaussian_std is '3' \(str\); expected float"),
        ("naclip", {"gaussian_std": -1.0}, "gaussian_std is -1.0; expected at least"),
        ("naclip", {"attention": "qq"}, "attention is 'qq'; expected one of naclip, nonly, kk, csa, vanilla"),
        ("gem", {"depth": 2.5}, r"depth is 2.5 \(float\); expected int"),
        ("gem", {"depth": 1}, "depth is 1; expected at least 2"),
        ("gem", {"temperature": True}, r"temperature is True \(bool\); expected None or float"),
        ("clearclip", {"model_type": "clearclip"}, "model_type is 'clearclip'; expected one of ClearCLIP"),
        ("sclip", {"pos_resize": "cubic"}, "pos_resize is 'cubic'; expected one of bicubic, bicubic_offset"),
        ("sclip", {"residual": "no"}, r"residual is 'no' \(str\); expected None or bool"),
    ],
)
def test_option_mistakes(name, options, message):
    with pytest.raises(ConfigError, match=message):
        build_recalibration(name, **options)


def test_unknown_method():
    with pytest.raises(UnknownNameError, match="unknown recalibration 'naclib'; did you mean NACLIP"):
        build_recalibration("naclib")


def test_more_blocks_than_there_are(clip):
    method = build_recalibration("gem", depth=9)
    with pytest.raises(ConfigError, match="GEM changes the last 8 blocks but test has 7"):
        clip.dense(torch.randn(1, 3, 64, 64), method)
