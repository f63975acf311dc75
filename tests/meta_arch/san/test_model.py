"""SAN end to end with a tiny random model: results, words, training, checkpoints, the API and the command line."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import yaml
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Instances
from PIL import Image

import ovseg
from ovseg.cli import main
from ovseg.config import config_root, load_config
from ovseg.errors import ConfigError, WeightsError
from ovseg.meta_arch.san.weights import official_name
from ovseg.vocabulary import Vocabulary

TINY = {
    "FRONT_BLOCKS": 1,
    "WIDTH": 24,
    "DEPTH": 2,
    "HEADS": 3,
    "IMAGE_SIZE": 64,
    "QUERIES": 6,
    "FUSION": ["0->0", "1->1"],
    "SUPERVISED_BLOCKS": [1, 2],
    "CHANNELS": 16,
    "HIDDEN": 16,
    "POINTS": 64,
}
WORDS = ["cat", "sofa|couch", "window"]


def settings(folder, weights="", **changes):
    return {
        "MODEL": {
            "DEVICE": "cpu",
            "WEIGHTS": str(weights),
            "CLIP": {"FOLDER": str(folder)},
            "TEXT": {"TEMPLATES": "simple"},
            "PROTOCOL": {"SHORT_SIDE": 64},
            "SAN": {**TINY, **changes},
        }
    }


def build(folder, weights="", words=WORDS, background=None, **changes):
    torch.manual_seed(3)
    cfg = load_config(config_root() / "san/san-vit-b-16.yaml", settings(folder, weights, **changes))
    model = build_model(cfg).eval()
    model.set_vocabulary(Vocabulary.parse(words), background)
    return model


@pytest.fixture
def model(tiny_clip):
    return build(tiny_clip)


@pytest.fixture
def config_file(tiny_clip, tmp_path):
    path = tmp_path / "tiny_san.yaml"
    base = {"_BASE_": str(config_root() / "san/san-vit-b-16.yaml"), "VERSION": 2}
    path.write_text(yaml.safe_dump({**base, **settings(tiny_clip)}))
    return path


def images():
    torch.manual_seed(0)
    return [
        {"image": torch.randint(0, 256, (3, 64, 85), dtype=torch.uint8), "height": 100, "width": 133},
        {"image": torch.rand(3, 70, 64) * 255},
        {"image": torch.randint(0, 256, (3, 16, 20)), "height": 5, "width": 4},
    ]


@pytest.mark.parametrize("background", ["none", "words", "sky, wall", "threshold:0.3"])
def test_outputs(model, background):
    model.set_vocabulary(Vocabulary.parse(WORDS), background)
    outputs = model(images())
    for output, size in zip(outputs, [(100, 133), (70, 64), (5, 4)], strict=True):
        labels, scores = output["labels"], output["sem_seg"]
        assert labels.shape == output["scores"].shape == size and labels.dtype == torch.int32
        assert scores.shape == (3, *size) and scores.dtype == torch.float32
        assert -1 <= labels.min() and labels.max() < 3
        own = labels >= 0
        assert (scores.argmax(0)[own] == labels[own]).float().mean() > 0.999 if own.any() else background != "none"
        assert own.all() or background != "none"
        assert 0 <= output["scores"].min() and output["scores"].max() <= 1


def test_one_word_and_many(model):
    image = images()[:1]
    model.set_vocabulary(Vocabulary.parse(["cat"]))
    assert set(model(image)[0]["labels"].unique().tolist()) <= {-1, 0}
    model.set_vocabulary(Vocabulary.parse([f"thing {i}" for i in range(300)]))
    assert model(image)[0]["sem_seg"].shape == (300, 100, 133)


def test_classes_are_no_part_of_the_weights(model):
    before = {key: value.shape for key, value in model.state_dict().items()}
    model.set_vocabulary(Vocabulary.parse([f"class {i}" for i in range(7)]))
    assert {key: value.shape for key, value in model.state_dict().items()} == before


def test_images_of_one_size_do_not_change_each_other(model):
    inputs = [{"image": torch.rand(3, 64, 64) * 255}, {"image": torch.rand(3, 64, 64) * 255}]
    together = model(inputs)
    for one, entry in zip(together, inputs, strict=True):
        torch.testing.assert_close(one["sem_seg"], model([entry])[0]["sem_seg"], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("token", ["learnable_token", "pos_embedding"])
@pytest.mark.parametrize("pooling", ["avg", "bilinear"])
def test_options(tiny_clip, token, pooling):
    model = build(tiny_clip, SLS_TOKEN=token, BIAS_POOLING=pooling, BIAS_HEADS=1, CLIP_RESOLUTION=1.0)
    assert model.sls_tokens.requires_grad
    assert model(images())[0]["labels"].shape == (100, 133)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(model, dtype):
    exact = model(images()[:1])[0]["sem_seg"]
    half = model.to(dtype)(images()[:1])[0]["sem_seg"]
    assert half.dtype == torch.float32 and (half - exact).abs().mean() < 0.05


def targets():
    masks = torch.zeros(2, 64, 85, dtype=torch.bool)
    masks[0, :30], masks[1, 40:, 20:] = True, True
    instances = Instances((64, 85), gt_classes=torch.tensor([0, 2]), gt_masks=BitMasks(masks))
    labels = torch.full((70, 64), 255)
    labels[:20], labels[20:40] = 1, 2
    return [{"image": images()[0]["image"], "instances": instances}, {"image": images()[1]["image"], "sem_seg": labels}]


def test_training(model):
    model.train()
    losses = model(targets())
    assert sorted(losses) == sorted(f"loss_{part}{stage}" for part in ("ce", "mask", "dice") for stage in ("", "_0"))
    sum(losses.values()).backward()
    learns = {name for name, value in model.named_parameters() if value.grad is not None and value.grad.any()}
    wanted = {name for name, value in model.named_parameters() if value.requires_grad}
    assert learns == wanted and all(name.startswith(model.head) for name in wanted)
    assert {"position", "void_row"} <= wanted


def test_the_hash_follows_training(model):
    before = model.weights_hash
    model.train()
    torch.nn.init.ones_(model.void_row)
    trained = model.eval().weights_hash
    assert trained != before and trained.startswith(model.clip.weights_hash)
    model.load_state_dict({**model.state_dict(), "void_row": torch.zeros_like(model.void_row)})
    assert model.weights_hash not in (before, trained)


def test_groups_of_the_optimizer_are_those_of_the_original(model, tiny_clip):
    from ovseg.engine.optimizer import parameter_groups

    cfg = load_config(config_root() / "san/san-vit-b-16.yaml", settings(tiny_clip))
    names = {id(value): name for name, value in model.named_parameters()}
    decay = {names[id(value)]: g["weight_decay"] for g in parameter_groups(model, cfg) for value in g["params"]}
    free = {name for name, value in decay.items() if not value}
    assert {"position", "side_adapter.pos_embed", "side_adapter.query_embed", "side_adapter.query_pos_embed"} <= free
    assert all("embed" in name or ".norm" in name or name == "position" for name in free)
    assert not any("fusion" in name for name in free) and "side_adapter.patch_embed.weight" not in free


def test_training_without_targets(model):
    with pytest.raises(ConfigError, match=r"a training image has \['image'\]; expected 'instances' or 'sem_seg'"):
        model.train()([{"image": torch.zeros(3, 64, 64)}])


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
    scale = loaded.clip.tower.visual.ln_post.weight / model.clip.tower.visual.ln_post.weight
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


def test_api_and_command_line(config_file, photo, tmp_path, capsys):
    torch.manual_seed(0)
    result = ovseg.load(config_file, "cpu")(photo, WORDS)
    assert result.labels.shape == (72, 96) and result.meta["settings"]["architecture"] == "SAN"
    json.dumps(result.meta)
    command = ["segment", str(photo), "--classes", "cat, sofa", "--model", str(config_file), "--device", "cpu"]
    assert main([*command, "--output", str(tmp_path / "out")]) == 0
    assert np.asarray(Image.open(tmp_path / "out/photo.labels.png")).shape[:2] == (72, 96)


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
    changes = settings(tiny_clip)
    changes["MODEL"]["PROTOCOL"]["PAMR_STEPS"] = 3
    with pytest.raises(ConfigError, match=r"MODEL\.PROTOCOL\.PAMR_STEPS is 3, but a model that proposes masks"):
        build_model(load_config(config_root() / "san/san-vit-b-16.yaml", changes))


def test_without_a_vocabulary(tiny_clip):
    cfg = load_config(config_root() / "san/san-vit-b-16.yaml", settings(tiny_clip))
    with pytest.raises(ConfigError, match=r"call model\.set_vocabulary"):
        build_model(cfg).eval()([{"image": torch.zeros(3, 64, 64)}])
