"""Reading, checking and refusing weights."""

from __future__ import annotations

import copy
import json
import pickle
import warnings

import open_clip
import pytest
import torch
from safetensors.torch import save, save_file

from ovseg.clip import ViTClip, loading
from ovseg.clip.open_clip_internals import OPENAI_MEAN, build_model
from ovseg.errors import ConfigError, OvsegError, UnknownNameError
from tests.clip.narrow_hf import unigram_tokenizer
from tests.clip.tiny import TINY
from tests.hub_double import HubDouble

PREPROCESS = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.1]}


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in build_model(TINY, "tiny").state_dict().items()}


def write_folder(path, config, state):
    path.mkdir()
    (path / "open_clip_config.json").write_text(json.dumps(config))
    save_file(state, path / "open_clip_model.safetensors")
    return path


def refused(message, call, *arguments, **options):
    with pytest.raises(OvsegError, match=message) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)


def test_folder(tmp_path, state):
    folder = write_folder(tmp_path / "mini", {"model_cfg": TINY, "preprocess_cfg": PREPROCESS}, state)
    clip = ViTClip.from_folder(folder)
    assert (clip.name, clip.mean, clip.std) == ("mini", (0.5, 0.4, 0.3), (0.2, 0.2, 0.1))
    assert clip.text(["a cat"]).shape == (1, 16)
    assert torch.equal(clip.model.visual.proj, state["visual.proj"])


def test_folder_in_half_precision_gives_float32(tmp_path, state):
    half = {key: value.half() for key, value in state.items()}
    clip = ViTClip.from_folder(write_folder(tmp_path / "half", {"model_cfg": TINY}, half))
    assert clip.model.visual.proj.dtype == torch.float32


def test_folder_mistakes(tmp_path, state):
    refused("open_clip_config.json does not exist", ViTClip.from_folder, tmp_path)
    (tmp_path / "open_clip_config.json").write_text("{")
    refused("is not a config", ViTClip.from_folder, tmp_path)
    (tmp_path / "open_clip_config.json").write_text("[]")
    refused("is not a config", ViTClip.from_folder, tmp_path)
    (tmp_path / "open_clip_config.json").write_text('{"model_cfg": 3}')
    refused("is not a config", ViTClip.from_folder, tmp_path)
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY}))
    refused("holds no weights", ViTClip.from_folder, tmp_path)


def test_a_folder_with_words_of_its_own_is_another_one_with_other_words(tmp_path):
    """Texts are remembered by the hash, so the files of a tokenizer are in it."""
    text = {**TINY["text_cfg"], "vocab_size": 900, "hf_tokenizer_name": "owner/words"}
    config = {**TINY, "text_cfg": text}
    folder = write_folder(tmp_path / "words", {"model_cfg": config}, build_model(config, "tiny").state_dict())
    unigram_tokenizer().save_pretrained(folder)
    first = ViTClip.from_folder(folder)
    rows = first.text(["a cat"])
    assert ViTClip.from_folder(folder).weights_hash == first.weights_hash
    unigram_tokenizer(["cat a"]).save_pretrained(folder)
    other = ViTClip.from_folder(folder)
    assert other.weights_hash != first.weights_hash and not torch.equal(other.text(["a cat"]), rows)
    assert first.model_cfg == other.model_cfg == config


def test_safetensors_and_pickled_files_load_alike(tmp_path, arches, state):
    save_file(state, tmp_path / "a.safetensors")
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}, "epoch": 3}, tmp_path / "b.pt")
    torch.save(state, tmp_path / "c.bin")
    hashes = {ViTClip.load("Tiny", tmp_path / name).weights_hash for name in ("a.safetensors", "b.pt", "c.bin")}
    assert len(hashes) == 1
    assert ViTClip.load("Tiny", str(tmp_path / "a.safetensors")).name == "Tiny/a"


def tags(*means: float) -> dict[str, dict[str, tuple[float, ...]]]:
    """Tags of an architecture, each with its own normalisation."""
    return {f"tag{i}": {"mean": (mean,) * 3, "std": (0.5,) * 3} for i, mean in enumerate(means)}


@pytest.mark.parametrize(
    ("known", "mean", "note"),
    [
        ({}, OPENAI_MEAN, ""),
        (tags(0.5, 0.5), (0.5,) * 3, ""),
        (tags(0.5, 0.4), OPENAI_MEAN, "as OpenAI's; weights of Tiny such as tag0, tag1 need another mean"),
    ],
    ids=["none", "agreed", "differing"],
)
def test_images_are_normalised_as_the_tags_of_an_architecture_say(
    known, mean, note, tmp_path, arches, state, monkeypatch
):
    """SigLIP, CLIPA and MobileCLIP are files, too, and no file says how its images are normalised."""
    monkeypatch.setattr(open_clip, "list_pretrained_tags_by_model", lambda _: list(known))
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda _, tag: known[tag])
    save_file(state, tmp_path / "a.safetensors")
    for clip in (ViTClip.load("Tiny", tmp_path / "a.safetensors"), ViTClip.empty("Tiny")):
        assert clip.mean == mean and note in " ".join(clip.notes)


@pytest.mark.parametrize("layout", ["open_clip", "transformers"])
def test_a_config_beside_a_file_says_how_images_are_normalised(layout, tmp_path, arches, state):
    save_file(state, tmp_path / "a.safetensors")
    if layout == "open_clip":
        (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY, "preprocess_cfg": PREPROCESS}))
    else:
        said = {"image_mean": PREPROCESS["mean"], "image_std": PREPROCESS["std"]}
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    clip = ViTClip.load("Tiny", tmp_path / "a.safetensors")
    assert (clip.mean, clip.std) == ((0.5, 0.4, 0.3), (0.2, 0.2, 0.1))
    assert "a.safetensors: images are normalised as the config beside it says, not as Tiny" in clip.notes


def test_a_config_beside_a_file_that_says_nothing_sensible(tmp_path, arches, state):
    save_file(state, tmp_path / "a.safetensors")
    config = tmp_path / "open_clip_config.json"
    config.write_text(json.dumps({"preprocess_cfg": {"mean": 0.5, "std": 0.25}}))
    assert ViTClip.load("Tiny-quickgelu", tmp_path / "a.safetensors").mean == (0.5, 0.5, 0.5)
    config.write_text(json.dumps({"preprocess_cfg": {"mean": [0.5], "std": 0.25}}))
    refused(r"open_clip_config.json: mean is \[0.5\]; expected three", ViTClip.load, "Tiny", tmp_path / "a.safetensors")


def test_openai_layouts(tmp_path, arches, state):
    extras = {key: torch.tensor(1) for key in ("input_resolution", "context_length", "vocab_size")}
    torch.save({**{key: value.half() for key, value in state.items()}, **extras}, tmp_path / "openai.pt")
    model = build_model({**TINY, "quick_gelu": True}, "tiny")
    model.load_state_dict(state)
    image, text = torch.zeros(1, 3, 32, 32), torch.zeros(1, 12, dtype=torch.long)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing is how OpenAI made its files, deprecated or not
        traced = torch.jit.trace(model.eval(), (image, text), strict=False, check_trace=False)
    torch.jit.save(traced, tmp_path / "scripted.pt")
    for name in ("openai.pt", "scripted.pt"):
        clip = ViTClip.load("Tiny-quickgelu", tmp_path / name)
        torch.testing.assert_close(clip.model.visual.proj, state["visual.proj"], atol=1e-3, rtol=1e-3)
        with pytest.warns(
            UserWarning, match=f"{name} runs with QuickGELU, as its layout, .*Tiny has exact GELU, Tiny-q"
        ):
            assert ViTClip.load("Tiny", tmp_path / name).weights_hash == clip.weights_hash
        exact = ViTClip.load("Tiny", tmp_path / name, overrides={"quick_gelu": False})
        assert exact.weights_hash != clip.weights_hash


def test_tags(tmp_path, monkeypatch):
    """Weights of tags come from a double of the hub, and the second time from the disk."""
    config = open_clip.get_model_config("ViT-B-16")
    small = copy.deepcopy(config)
    small["vision_cfg"].update(layers=1)
    small["text_cfg"].update(layers=1)
    monkeypatch.setattr(open_clip, "get_model_config", lambda arch: copy.deepcopy(small))
    files = {"open_clip_model.safetensors": save(build_model(small, "small").state_dict())}
    openai, laion = "timm/vit_base_patch16_clip_224.openai", "laion/CLIP-ViT-B-16-laion2B-s34B-b88K"
    monkeypatch.setenv("OVSEG_DOWNLOAD", "yes")  # a small one has large embeddings of its tokens
    with HubDouble({openai: files, laion: files}) as hub:
        hub.use(monkeypatch, tmp_path)
        clip = ViTClip.load("ViT-B-16", "openai")
        assert clip.name == "ViT-B-16/openai"
        assert type(clip.model.visual.transformer.resblocks[0].mlp.gelu).__name__ == "QuickGELU"
        assert clip.mean == pytest.approx((0.48145466, 0.4578275, 0.40821073))
        clip = ViTClip.load("ViT-B-16", "laion2b_s34b_b88k")
        assert type(clip.model.visual.transformer.resblocks[0].mlp.gelu).__name__ == "GELU"
        asked = len(hub.asked("GET"))
        hub.requests.clear()
        assert ViTClip.load("ViT-B-16", "laion2b_s34b_b88k").weights_hash == clip.weights_hash
        message = "ViT-B-32/laion400m_e32 needs QuickGELU, .*; name ViT-B-32-quickgelu/laion400m_e32, or set MODEL"
        refused(message, ViTClip.load, "ViT-B-32", "laion400m_e32")
        assert asked and not hub.requests


def test_weights_of_a_tag_that_cannot_be_had():
    message = "timm/vit_base_patch16_clip_224.openai/open_clip_model.safetensors is not on this machine and OVSEG_OFF"
    refused(message, ViTClip.load, "ViT-B-16", "openai")


def test_unknown_names():
    with pytest.raises(UnknownNameError, match="did you mean ViT-B-16"):
        ViTClip.load("ViT-B-61", "openai")
    with pytest.raises(UnknownNameError, match="did you mean openai"):
        ViTClip.load("ViT-B-16", "opanai")
    for arch, expected in (("RN50", "has a ResNet tower"), ("convnext_base", "timm's ConvNeXt")):
        with pytest.raises(ConfigError, match=f"{arch}.* {expected}.*expected"):
            ViTClip.load(arch, "openai")


def test_files_that_are_no_weights(tmp_path, arches, state):
    class Foreign:
        pass

    save_file(state, tmp_path / "good.safetensors")
    torch.save(state, tmp_path / "good.pt")
    for name in ("good.safetensors", "good.pt"):
        data = (tmp_path / name).read_bytes()
        (tmp_path / f"cut_{name}").write_bytes(data[: len(data) // 2])
        refused("cannot be read", ViTClip.load, "Tiny", tmp_path / f"cut_{name}")
    (tmp_path / "words.pt").write_text("these are words\n" * 9)
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "evil.pt").write_bytes(pickle.dumps({"visual.proj": print}))
    torch.save({"epoch": 3, "visual.proj": "x"}, tmp_path / "strange.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    for name, message in {
        "words.pt": "cannot be read",
        "empty.pt": "cannot be read",
        "evil.pt": "cannot be read",
        "strange.pt": "which is no tensor",
        "list.pt": "holds a list; expected a state dict",
        "missing.pt": "does not exist",
    }.items():
        refused(message, ViTClip.load, "Tiny", tmp_path / name)


def test_weights_that_do_not_fit(state):
    def load(changed):
        return ViTClip.from_config(TINY, changed, "tiny")

    refused("holds none of the", load, {"backbone.weight": torch.zeros(3)})
    refused("it misses visual.proj;", load, {key: value for key, value in state.items() if key != "visual.proj"})
    refused("it has unexpected a, b, c and 1 more;", load, {**state, **dict.fromkeys("abcd", torch.zeros(1))})
    wrong = {**state, "visual.proj": torch.zeros(32, 5)}
    refused(r"mis-shaped visual.proj \(got \(32, 5\) torch.float32, expected \(32, 16\)\)", load, wrong)
    refused("mis-shaped visual.proj", load, {**state, "visual.proj": state["visual.proj"].int()})
    broken = {**state, "visual.proj": state["visual.proj"].index_fill(0, torch.tensor(3), torch.nan)}
    refused(r"the state dict holds NaN or infinite values in visual.proj \(16 of 512 in", load, broken)
    masked = {**state, "attn_mask": torch.full((12, 12), -torch.inf).triu_(1)}  # as older versions store it
    assert load(masked).weights_hash == load(state).weights_hash


def test_configs_that_cannot_be_built(state):
    refused("lacks text_cfg", ViTClip.from_config, {"embed_dim": 3, "vision_cfg": {}}, state)
    broken = {**TINY, "vision_cfg": {**TINY["vision_cfg"], "depht": 3}}
    refused("open_clip cannot build custom from its config: .*depht", ViTClip.from_config, broken, state)
    pooled = {**TINY, "vision_cfg": {**TINY["vision_cfg"], "attentional_pool": True}}
    refused("misses visual.attn_pool", ViTClip.from_config, pooled, state)
    unpooled = {**TINY, "vision_cfg": {**TINY["vision_cfg"], "pool_type": "none"}}
    refused(
        "expected pool_type",
        ViTClip.from_config,
        unpooled,
        state,
    )
    for wrong in ({"mean": [1, 2]}, {"std": [1, 0, 1]}, {"std": "x"}):
        refused(r"of preprocess_cfg is .*; expected three", ViTClip.from_config, TINY, state, preprocess_cfg=wrong)
    assert ViTClip.from_config(TINY, state, preprocess_cfg={"mean": 0.5}).mean == (0.5, 0.5, 0.5)


def test_custom_text_tower_takes_both_key_layouts(state):
    custom = {**TINY, "custom_text": True}
    clip = ViTClip.from_config(custom, state)
    own = clip.model.state_dict()
    assert "text.positional_embedding" in own
    assert ViTClip.from_config(custom, own).weights_hash == clip.weights_hash
    plain = ViTClip.from_config(TINY, state)
    torch.testing.assert_close(clip.text(["a cat"]), plain.text(["a cat"]))


def test_loading_leaves_the_random_generator_alone(state):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    loading.from_config(ViTClip, TINY, state)
    assert torch.equal(torch.rand(1), expected)
