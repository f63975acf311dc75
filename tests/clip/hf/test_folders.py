"""Folders and repositories of transformers as users have them: each is its source, or is refused in a sentence."""

from __future__ import annotations

import json
import re
import sys
from itertools import product
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from ovseg.clip import ClipSource, ViTClip, load_tower
from ovseg.clip.hf.clip import HfClip
from ovseg.errors import ConfigError, EnvironmentProblem, WeightsError
from tests.clip.narrow_hf import KINDS, image_features, model_of, save, text_features
from tests.hub_double import HubDouble

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))


@pytest.fixture(params=["siglip"])
def kind(request):
    return request.param


@pytest.fixture
def source(kind):
    return model_of(kind)


@pytest.fixture
def folder(source, tmp_path):
    return save(tmp_path / "small", *source)


def assert_is(clip, model):
    torch.testing.assert_close(clip.dense(IMAGES).cls, image_features(model, IMAGES), atol=1e-4, rtol=1e-4)
    tokens = clip.text_tokens(["a cat", "the sky"])
    torch.testing.assert_close(clip.text(["a cat", "the sky"]), text_features(model, tokens), atol=1e-4, rtol=1e-4)


def change(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize("kind", list(KINDS), indirect=True)
@pytest.mark.parametrize(
    "layout", ["whole", "shards", "pickle", "half", "position_ids", "training", "inside", "average"]
)
def test_layouts(folder, source, layout):
    model, weights = source[0], folder / "model.safetensors"
    state = load_file(weights)
    if layout == "shards":
        weights.unlink()
        model.save_pretrained(folder, max_shard_size="40KB")
        assert len(list(folder.glob("model-0*"))) > 1
    elif layout == "half":
        save_file({key: value.half() for key, value in state.items()}, weights)
        change(folder, dtype="float16", torch_dtype="float16")
        for value in model.parameters():
            value.data = value.data.half().float()
    elif layout == "position_ids":
        ids = {f"{tower}_model.embeddings.position_ids": torch.arange(17)[None] for tower in ("vision", "text")}
        save_file({**state, **ids}, weights)
    elif layout in ("inside", "average"):
        zeros = {f"model.{key}": torch.zeros_like(value) for key, value in state.items()}
        own = {f"model_ema.module.{key}": value for key, value in state.items()}
        save_file({**own, **(zeros if layout == "average" else {"loss.temperature": torch.ones(1)})}, weights)
    elif layout in ("pickle", "training"):
        weights.unlink()
        kept = {"state_dict": {f"module.{key}": value for key, value in state.items()}, "epoch": 3}
        torch.save(state if layout == "pickle" else kept, folder / "pytorch_model.bin")
    clip = load_tower(ClipSource(folder=str(folder)))
    assert isinstance(clip, ViTClip if source[0].config.model_type == "clip" else HfClip)
    assert clip.dtype == torch.float32
    told = {
        "inside": "left out what a training keeps beside it: loss.temp",
        "average": "its average 'model_ema.module.'",
    }
    assert [note for note in clip.notes if told.get(layout, "-") in note] or layout not in told
    assert_is(clip, model)


def test_blocks_of_alt_clip_have_two_names(tmp_path):
    """Released weights call those of texts ``layer`` and of images ``layers``; transformers 5 writes one for both."""
    folder = save(tmp_path / "alt", *model_of("altclip"))
    state = load_file(folder / "model.safetensors")
    for images, texts in product(("layer", "layers"), repeat=2):
        names = {
            re.sub(r"encoder\.layers?\.", f"encoder.{images if key.startswith('vision') else texts}.", key): value
            for key, value in state.items()
        }
        save_file(names, folder / "model.safetensors")
        assert_is(HfClip.from_folder(folder), model_of("altclip")[0])


def test_how_attention_is_computed_is_no_part_of_a_model(folder):
    own = HfClip.from_folder(folder).weights_hash
    change(folder, attn_implementation="flash_attention_2", _attn_implementation_autoset=True)
    assert HfClip.from_folder(folder).weights_hash == own


@pytest.mark.parametrize("left_out", ["vision_model.head.probe", "text_model.final_layer_norm.bias", "logit_bias"])
def test_missing_weights_are_named(folder, left_out):
    state = load_file(folder / "model.safetensors")
    save_file({key: value for key, value in state.items() if key != left_out}, folder / "model.safetensors")
    with pytest.raises(WeightsError, match=rf"model.safetensors does not fit small: it misses {left_out}"):
        HfClip.from_folder(folder)


def test_strange_and_broken_weights_are_named(folder):
    weights = folder / "model.safetensors"
    state = load_file(weights)
    save_file({**state, "lora.weight": torch.zeros(3)}, weights)
    with pytest.raises(WeightsError, match=r"has unexpected lora\.weight"):
        HfClip.from_folder(folder)
    save_file({**state, "logit_scale": torch.tensor([float("nan")])}, weights)
    with pytest.raises(WeightsError, match="holds NaN or infinite values in logit_scale"):
        HfClip.from_folder(folder)
    weights.unlink()
    with pytest.raises(WeightsError, match="holds no weights; expected"):
        HfClip.from_folder(folder)


@pytest.mark.parametrize("kind", ["siglip", "altclip"], indirect=True)
def test_position_embeddings_of_another_size(folder, source):
    vision = {**source[0].config.vision_config.to_dict(), "image_size": 96}
    change(folder, vision_config=vision)
    with pytest.raises(WeightsError, match=r"4 x 4 patches, small of 6 x 6 patches.*RESIZE_POSITION"):
        HfClip.from_folder(folder)
    clip = HfClip.from_folder(folder, resize_position=True)
    assert clip.notes == ("model.safetensors: position embeddings of 4 x 4 patches were resized to 6 x 6 patches",)
    assert clip.dense(torch.randn(1, 3, 96, 96)).grid == (6, 6)


def test_a_model_that_brings_code_is_refused(folder):
    change(folder, auto_map={"AutoModel": "modeling_own.OwnModel"}, model_type="own")
    (folder / "modeling_own.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(ConfigError, match=r"^.*small \(own\) needs code of its own \(trust_remote_code\)") as error:
        load_tower(ClipSource(folder=str(folder)))
    assert "\n" not in str(error.value)


def test_the_code_of_a_tokenizer_does_not_run(folder, source):
    said = {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": ["tokenizer_own.OwnTokenizer", None]}}
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **said}))
    (folder / "tokenizer_own.py").write_text("raise SystemExit('it ran')")
    expected = source[1](["a cat"], padding="max_length", max_length=16)["input_ids"]
    try:
        assert HfClip.from_folder(folder).text_tokens(["a cat"]).tolist() == expected
    except WeightsError as error:  # before transformers 5
        assert "custom code" in str(error) and "\n" not in str(error)


@pytest.mark.parametrize("content", [b"{", b"", b'{"model": {"type": "BPE"}}'])
def test_a_broken_tokenizer_is_one_line(folder, content):
    (folder / "tokenizer.json").write_bytes(content)
    with pytest.raises(WeightsError, match=r"the tokenizer in .*small cannot be read") as error:
        HfClip.from_folder(folder).text(["a cat"])
    assert "\n" not in str(error.value)


def test_a_tokenizer_that_cannot_fill_up_is_refused(folder):
    path = folder / "tokenizer_config.json"
    said = json.loads(path.read_text())
    del said["pad_token"]
    path.write_text(json.dumps(said))
    with pytest.raises(WeightsError, match="has no pad_token; expected one in tokenizer_config"):
        HfClip.from_folder(folder).text(["a cat"])


def test_models_that_are_no_towers(folder):
    change(folder, model_type="llava")
    with pytest.raises(ConfigError, match="small is a llava of transformers; expected model_type clip or"):
        load_tower(ClipSource(folder=str(folder)))
    with pytest.raises(ConfigError, match="small is a llava of transformers; expected model_type clip or"):
        HfClip.from_folder(folder)


def test_an_image_tower_that_does_not_pool_is_refused(folder, source):
    change(folder, vision_config={**source[0].config.vision_config.to_dict(), "vision_use_head": False})
    with pytest.raises(ConfigError, match="does not pool"):
        load_tower(ClipSource(folder=str(folder)))


def test_a_config_that_cannot_be_built_is_one_line(folder, source):
    change(folder, vision_config={**source[0].config.vision_config.to_dict(), "num_attention_heads": 5})
    with pytest.raises(ConfigError, match="transformers cannot build small from its config") as error:
        HfClip.from_folder(folder)
    assert "\n" not in str(error.value)


def test_a_folder_without_words_is_refused(folder):
    (folder / "tokenizer.json").unlink()
    with pytest.raises(WeightsError, match=r"holds no tokenizer; expected tokenizer\.json"):
        HfClip.from_folder(folder)


def test_what_a_tower_lacks_is_said_before_weights_are_read(folder):
    from ovseg.clip.tokens import CLASS_TOKEN

    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"SAN needs a class token, which .* \(a model of transformers\) has not"):
        load_tower(ClipSource(folder=str(folder)), {CLASS_TOKEN}, "SAN")


def test_without_transformers_one_line_says_what_to_install(folder, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "transformers"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "transformers", None)
    message = r"^small, a SiglipModel, needs transformers; run `pip install 'ovseg\[hf\]'`$"
    with pytest.raises(EnvironmentProblem, match=message):
        HfClip.from_folder(folder)


def test_an_old_transformers_without_the_model(folder, monkeypatch):
    old = SimpleNamespace(__version__="4.30.0")
    monkeypatch.setattr("ovseg.clip.hf.clip.import_transformers", lambda who: old)
    with pytest.raises(EnvironmentProblem, match=r"transformers 4.30.0 has no SiglipModel; run `pip install -U 'ovseg"):
        HfClip.from_folder(folder)


@pytest.mark.parametrize("kind", ["altclip", "siglip2"], indirect=True)
def test_a_repository_of_the_hub(folder, source, monkeypatch, tmp_path):
    said = {"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 2, 3]}
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    files |= {"modeling_own.py": b"raise SystemExit", "pytorch_model.bin": b"not taken"}
    with HubDouble({"owner/words": files}) as hub:
        hub.use(monkeypatch, tmp_path / "cache")
        clip = load_tower(ClipSource(folder="hf:owner/words"))
        assert clip.name == "owner/words" and clip.mean == (0.1, 0.2, 0.3) and clip.std == (1, 2, 3)
        assert_is(clip, source[0])
        fetched = {request.path.rsplit("/", 1)[-1] for request in hub.requests if "/resolve/" in request.path}
        assert not fetched & {"modeling_own.py", "pytorch_model.bin"}
        hub.requests.clear()
        again = load_tower(ClipSource(folder="hf:owner/words"))
        assert again.weights_hash == clip.weights_hash and again.text(["a cat"]).shape[0] == 1
        assert not hub.requests
