"""CLIP and SigLIP of transformers, against transformers: files, folders, shards, and the hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ovseg.checkpoint.clip_files import read_clip, recognise
from ovseg.checkpoint.hugging_face import CLIP, SIGLIP
from ovseg.clip import ClipSource, ViTClip, load_tower
from ovseg.clip.folders import folder_config, repository
from ovseg.clip.open_clip_internals import build_model
from ovseg.clip.transformers_config import open_clip_config
from ovseg.errors import WeightsError
from tests.hub_double import HubDouble

transformers = pytest.importorskip("transformers")

VISION = {"hidden_size": 32, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4}
TEXT = {"hidden_size": 24, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 3}


def clip_model(act: str = "quick_gelu", **text: Any) -> Any:
    config = transformers.CLIPConfig(
        text_config={**TEXT, "vocab_size": 49408, "max_position_embeddings": 20, "hidden_act": act, **text},
        vision_config={**VISION, "image_size": 48, "patch_size": 16, "hidden_act": act},
        projection_dim=20,
    )
    torch.manual_seed(7)
    model = transformers.CLIPModel(config).eval()
    for value in model.parameters():
        value.data += 0.1 * torch.randn_like(value)
    return model


def pooled(found: Any) -> Tensor:
    return found if isinstance(found, Tensor) else found.pooler_output


@pytest.fixture(scope="module", params=["whole", "shards", "exact GELU", "an end of its own"])
def folder(request, tmp_path_factory) -> tuple[Path, Any]:
    text = {"eos_token_id": 7} if request.param == "an end of its own" else {}
    model = clip_model("gelu" if request.param == "exact GELU" else "quick_gelu", **text)
    place = tmp_path_factory.mktemp("clip")
    model.save_pretrained(place, max_shard_size="200KB" if request.param == "shards" else "1GB")
    (place / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.25] * 3}))
    return place, model


def test_a_folder_of_a_clip_model_is_a_tower_of_ours(folder):
    place, model = folder
    clip = load_tower(ClipSource(folder=str(place)))
    assert isinstance(clip, ViTClip) and (clip.mean, clip.std) == ((0.5,) * 3, (0.25,) * 3)
    assert clip.activation == model.config.vision_config.hidden_act and clip.name == place.name
    images, tokens = torch.randn(2, 3, 48, 48), torch.randint(10, 900, (3, 20))
    tokens[0, 9], tokens[1, 4], tokens[2, 19] = (clip.text_cfg.get("eos_id", 49407),) * 3
    with torch.inference_mode():
        torch.testing.assert_close(
            clip.model.encode_image(images), pooled(model.get_image_features(images)), atol=1e-5, rtol=1e-4
        )
        torch.testing.assert_close(clip.dense(images).cls, clip.model.encode_image(images), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(
            clip.model.encode_text(tokens), pooled(model.get_text_features(tokens)), atol=1e-5, rtol=1e-4
        )
        assert clip.logit_scale == pytest.approx(float(model.logit_scale.exp()), rel=1e-5)


def test_defaults_that_a_config_leaves_out():
    """Each default is that of the class; a large one is compared on no device."""
    for text, vision in (({}, {}), ({"hidden_size": 768, "num_attention_heads": 12}, {"patch_size": 14})):
        config = transformers.CLIPConfig(text_config=text, vision_config=vision)
        full = open_clip_config(config.to_dict())
        short = open_clip_config({"model_type": "clip", "text_config": text, "vision_config": vision})
        old = open_clip_config({"model_type": "clip", "text_config_dict": text, "vision_config_dict": vision})
        assert full == short == old
        with torch.device("meta"):
            theirs, ours = transformers.CLIPModel(config), build_model(full, "x")
        assert sum(value.numel() for value in ours.parameters()) == sum(value.numel() for value in theirs.parameters())


def test_what_open_clip_has_not_stays_as_it_is():
    assert open_clip_config({"model_type": "altclip"}) is None
    assert open_clip_config({"model_type": "clip", "vision_config": {"hidden_act": "silu"}}) is None
    assert open_clip_config({"model_type": "clip", "text_config": {"hidden_act": "gelu"}}) is None
    with pytest.raises(WeightsError, match=r"config.json of a CLIPModel cannot be used"):
        open_clip_config({"model_type": "clip", "vision_config": {"patch_size": [16]}})


def test_siglip_files_are_read_by_architectures_of_open_clip():
    """Names and shapes of a whole SigLIP 2, and values of its packed parts."""
    config = transformers.SiglipConfig(
        text_config={"vocab_size": 64, "num_hidden_layers": 1}, vision_config={"num_hidden_layers": 1}
    )
    model = transformers.SiglipModel(config)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    found = recognise({"model": {f"module.{key}": value for key, value in state.items()}}, "w.pt")
    assert found.layout == SIGLIP
    arch = "ViT-B-16-SigLIP"
    own = build_model_of(arch, 64)
    expected = {key: value.shape for key, value in own.items() if not deeper(key)}
    assert {key: value.numel() for key, value in found.tensors.items()} == {
        key: shape.numel() for key, shape in expected.items()
    }
    attention = "vision_model.encoder.layers.0.self_attn."
    packed = torch.cat([state[f"{attention}{part}_proj.weight"] for part in "qkv"])
    assert torch.equal(found.tensors["visual.trunk.blocks.0.attn.qkv.weight"], packed)
    probe = state["vision_model.head.attention.in_proj_weight"]
    assert torch.equal(found.tensors["visual.trunk.attn_pool.kv.weight"], probe[768:])


def build_model_of(arch: str, vocabulary: int) -> dict[str, Tensor]:
    import open_clip

    config = open_clip.get_model_config(arch)
    config["text_cfg"]["vocab_size"] = vocabulary
    with torch.device("meta"):
        return build_model(config, arch, lambda config, name: None).state_dict()


def deeper(key: str) -> bool:
    """Tell whether a tensor is of another block than the first."""
    parts = key.split(".")
    return any(part.isdigit() and int(part) > 0 for part in parts) and ("blocks" in parts or "resblocks" in parts)


def test_siglip_translated_gives_the_same_embeddings():
    """SigLIP of transformers in timm's and open_clip's modules, narrowed; with the same GELU."""
    import timm
    from open_clip.transformer import TextTransformer

    config = transformers.SiglipConfig(
        text_config={
            **TEXT,
            "vocab_size": 64,
            "max_position_embeddings": 8,
            "hidden_act": "gelu",
            "projection_size": 32,
        },
        vision_config={**VISION, "image_size": 48, "patch_size": 16, "hidden_act": "gelu"},
    )
    torch.manual_seed(3)
    model = transformers.SiglipModel(config).eval()
    for value in model.parameters():
        value.data += 0.1 * torch.randn_like(value)
    found = recognise(dict(model.state_dict()), "w.pt").tensors
    trunk = timm.create_model(
        "vit_base_patch16_siglip_224", img_size=48, embed_dim=32, depth=3, num_heads=4, mlp_ratio=3, num_classes=0
    ).eval()
    trunk.load_state_dict(part(found, "visual.trunk."))
    words = TextTransformer(
        context_length=8,
        vocab_size=64,
        width=24,
        heads=3,
        layers=2,
        output_dim=32,
        pool_type="last",
        proj_bias=True,
        no_causal_mask=True,
        norm_layer=lambda width: torch.nn.LayerNorm(width, eps=1e-6),
    ).eval()
    words.load_state_dict(part(found, "text."))
    images, tokens = torch.randn(2, 3, 48, 48), torch.randint(0, 64, (3, 8))
    with torch.inference_mode():
        torch.testing.assert_close(trunk(images), pooled(model.get_image_features(images)), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(words(tokens), pooled(model.get_text_features(tokens)), atol=1e-5, rtol=1e-4)


def part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def test_the_layout_is_told_by_its_names(tmp_path):
    model = clip_model()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    assert read_clip(tmp_path / "pytorch_model.bin").layout == CLIP


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Iterator[HubDouble]:
    clip_model().save_pretrained(tmp_path / "saved")
    files = {file.name: file.read_bytes() for file in (tmp_path / "saved").iterdir()}
    with HubDouble({"me/clip": files, "me/text": {"config.json": b'{"model_type": "bert"}'}}) as double:
        double.use(monkeypatch, tmp_path)
        yield double


def test_a_repository_is_fetched_once(hub):
    source = ClipSource(folder="hf:me/clip")
    clip = load_tower(source)
    assert clip.name == "me/clip" and "/me/clip/resolve/" in " ".join(hub.asked())
    hub.requests.clear()
    assert load_tower(source).weights_hash == clip.weights_hash and not hub.requests


def test_a_config_alone_is_fetched_to_say_what_does_not_fit(hub):
    from ovseg.clip.tokens import LEVELS
    from ovseg.errors import ConfigError

    with pytest.raises(ConfigError, match=r"FCCLIP needs levels .*hf:me/clip \(a vision transformer"):
        load_tower(ClipSource(folder="hf:me/clip"), {LEVELS}, "FCCLIP")
    with pytest.raises(ConfigError, match=r"hf:me/text is a bert of transformers; expected model_type clip or"):
        load_tower(ClipSource(folder="hf:me/text"))
    assert not any("safetensors" in path for path in hub.asked())


def test_names_of_repositories():
    found = repository("hf-hub:timm/ViT-B-16-SigLIP@main")
    assert found and (found.name, found.revision, found.config) == (
        "timm/ViT-B-16-SigLIP",
        "main",
        "open_clip_config.json",
    )
    assert repository("some/folder") is None and repository("C:/folder") is None
    for wrong in ("hf:name", "hf:a/b/c", "hf:/b", "hf-hub:"):
        with pytest.raises(WeightsError, match="names no repository of the hub"):
            repository(wrong)


def test_a_folder_without_a_config(tmp_path):
    with pytest.raises(WeightsError, match=r"does not exist; expected a folder with it \(or config.json"):
        folder_config(tmp_path)
