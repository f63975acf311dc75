"""SAN beyond what all models are held to: its options, its optimizer, its checkpoints, what it packs."""

from __future__ import annotations

import pytest
import torch

from ovseg.engine.optimizer import parameter_groups
from ovseg.errors import ConfigError, WeightsError
from ovseg.meta_arch.san.weights import official_name
from ovseg.ops.linear_layers import PackedLinear, can_pack
from tests.meta_arch import models
from tests.meta_arch.models import picture, words
from tests.meta_arch.tester import ask


def build(folder, weights="", **changes):
    return models.build("san", folder, weights, **changes)


@pytest.fixture
def model(tiny_clip):
    return build(tiny_clip)


@pytest.mark.parametrize("token", ["learnable_token", "pos_embedding"])
@pytest.mark.parametrize("pooling", ["avg", "bilinear"])
def test_options(tiny_clip, token, pooling):
    model = build(tiny_clip, SLS_TOKEN=token, BIAS_POOLING=pooling, BIAS_HEADS=1, CLIP_RESOLUTION=1.0)
    assert model.sls_tokens.requires_grad
    (found,) = ask(model, [picture(64, 85)], model.words(words("cat", "sofa")))
    assert found.labels.shape == (64, 85) and found.scores.isfinite().all()


def test_images_of_less_than_a_patch_of_clip(model):
    (found,) = ask(model, [picture(16, 20)], model.words(words("cat", "sofa")), size=(5, 4))
    assert found.labels.shape == (5, 4)


@pytest.mark.skipif(not can_pack(), reason="this PyTorch has no packed layers")
def test_packing_reaches_the_trunk_and_the_side_adapter(model):
    model.pack()
    packed = [name for name, module in model.named_modules() if isinstance(module, PackedLinear)]
    assert {name.split(".")[0] for name in packed} == {"clip", "side_adapter"}
    assert not any(name.startswith("clip.model.transformer") for name in packed)


def test_groups_of_the_optimizer_are_those_of_the_original(model, tiny_clip):
    cfg = models.config("san", tiny_clip)
    names = {id(value): name for name, value in model.named_parameters()}
    decay = {names[id(value)]: g["weight_decay"] for g in parameter_groups(model, cfg) for value in g["params"]}
    free = {name for name, value in decay.items() if not value}
    assert {"position", "side_adapter.pos_embed", "side_adapter.query_embed", "side_adapter.query_pos_embed"} <= free
    assert all("embed" in name or ".norm" in name or name == "position" for name in free)
    assert not any("fusion" in name for name in free) and "side_adapter.patch_embed.weight" not in free


def official(model):
    own = sorted(model.state_dict().items())  # "position" comes behind CLIP's own table, which it stands for
    state = {official_name(key, model.front_blocks): value for key, value in own}
    return {**state, "ov_classifier.attn_mask": torch.zeros(16, 16), "criterion.empty_weight": torch.ones(172)}


@pytest.mark.parametrize("layout", ["official", "ours", "head alone"])
def test_checkpoints(model, tiny_clip, tmp_path, layout):
    torch.nn.init.normal_(model.side_adapter.query_embed)
    torch.nn.init.normal_(model.position, std=0.2)
    state = official(model) if layout == "official" else model.state_dict()
    if layout == "head alone":
        state = {key: value for key, value in state.items() if key.startswith(model.head)}
    else:  # the CLIP of the file counts, not that of the folder
        state = {key: value * 0.9 if key.endswith("ln_post.weight") else value for key, value in state.items()}
    torch.save({"model": state, "iteration": 7}, tmp_path / "san.pth")
    loaded = build(tiny_clip, tmp_path / "san.pth")
    for key, value in model.state_dict().items():
        if not key.startswith("clip.model.visual.ln_post") and key != "clip.model.visual.positional_embedding":
            torch.testing.assert_close(loaded.state_dict()[key], value)
    key = "clip.model.visual.ln_post.weight"
    scale = loaded.state_dict()[key] / model.state_dict()[key]
    torch.testing.assert_close(scale, torch.full_like(scale, 1.0 if layout == "head alone" else 0.9))
    assert (loaded.clip.weights_hash == model.clip.weights_hash) == (layout == "head alone")
    assert not any(value.requires_grad for value in loaded.clip.parameters())
    assert all(value.requires_grad for key, value in loaded.named_parameters() if key.startswith(model.head))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("clip_rec_head.resblocks.0.ln_1.bias"), r"misses clip_rec_head\.resblocks\.0\.ln_1\.bias"),
        (lambda s: s.update(more=torch.ones(1)), "has unexpected more"),
        (
            lambda s: s.update({"ov_classifier.bg_embed": torch.ones(1, 9)}),
            r"mis-shaped ov_classifier\.bg_embed \(got \(1, 9\) torch.float32, expected \(1, 32\)\)",
        ),
    ],
)
def test_checkpoints_that_do_not_fit(model, tiny_clip, tmp_path, change, message):
    state = official(model)
    change(state)
    torch.save({"model": state}, tmp_path / "san.pth")
    with pytest.raises(WeightsError, match=rf"san\.pth does not fit SAN: it .*{message}"):
        build(tiny_clip, tmp_path / "san.pth")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"FRONT_BLOCKS": 2}, "2 front blocks and taps up to 1"),
        ({"FUSION": ["0-0"]}, "fusion has '0-0'; expected two numbers such as '3->1'"),
        ({"SLS_TOKEN": "cls"}, "sls_token is 'cls'"),
    ],
)
def test_configs_that_do_not_fit(tiny_clip, changes, message):
    with pytest.raises(ConfigError, match=message):
        build(tiny_clip, **changes)


def test_what_the_protocol_cannot_do(tiny_clip):
    with pytest.raises(ConfigError, match=r"MODEL\.PROTOCOL\.PAMR_STEPS is 3, but a model that proposes masks"):
        build(tiny_clip, protocol={"PAMR_STEPS": 3})
