"""FC-CLIP beyond what all models are held to: its ensemble, the words of its training, its checkpoints."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

import ovseg
from ovseg.errors import ConfigError, WeightsError
from ovseg.labelling.known import seen_columns
from ovseg.meta_arch.fcclip.model import Ensemble, valid_masks
from ovseg.meta_arch.fcclip.weights import official_name
from ovseg.vocabulary import Vocabulary
from tests.meta_arch import models
from tests.meta_arch.models import picture, training_picture, words
from tests.meta_arch.tester import ask, assert_same


def build(folder, weights="", **changes):
    return models.build("fcclip", folder, weights, **changes)


@pytest.fixture
def model(tiny_convnext):
    return build(tiny_convnext)


def test_columns_are_seen_if_they_have_a_word_of_the_training(model):
    asked = model.words(words("cat", "sofa|couch", "quark"), ["sky", "wall", "gluon"])
    assert seen_columns(asked, model.trained_names).tolist() == [True, True, False, True, True, False]
    alone = model.words(words("quark"))
    assert len(seen_columns(alone, frozenset({"quark"}))) == len(alone.column_class) > 1


def test_a_class_is_seen_by_one_name_to_the_letter(model):
    known = frozenset(Vocabulary.parse("coco133").queries)
    names = ["building|edifice", "Sky", "clouds", "wall-brick", "lamp post|bulb"]
    assert seen_columns(model.words(words(*names)), known).tolist() == [True, False, True, False, True]
    assert seen_columns(model.words(Vocabulary.parse("coco133")), known).all()


def test_the_words_of_a_training_are_seen_behind_it(tiny_convnext):
    model = build(tiny_convnext, TRAINED_VOCABULARY="")
    asked = model.words(words("cat", "sofa|couch", "quark"))
    assert model.trained_names is None
    before = ask(model, [picture(64, 64)], asked)[0].scores
    model.start_training(model.words(words("cat", "quark")))
    model.start_training(model.words(words("tree")))  # they are known by now
    assert model.trained_names == {"cat", "quark"}
    assert not torch.equal(ask(model, [picture(64, 64)], asked)[0].scores, before)
    told = build(tiny_convnext, TRAINED_VOCABULARY="", text={"VOCABULARY": "sofa, bed"})
    assert told.trained_names == {"sofa", "bed"}
    assert told.settings["trained_names"]["count"] == 2
    other = build(tiny_convnext, TRAINED_VOCABULARY="", text={"VOCABULARY": "sofa, cup"})
    assert other.settings != told.settings  # as many names, but others: what one has encoded the other refuses


def test_seen_classes_trust_the_trained_classifier_more():
    trained, own = torch.tensor([[[2.0, 0, -9]]]), torch.tensor([[[0.0, 2, -9]]])
    scores = [Ensemble().scores(trained, own, torch.tensor(seen))[0, 0] for seen in ([True] * 2, [False] * 2)]
    assert scores[0].argmax() == 0 and scores[1].argmax() == 1
    assert scores[0].exp().sum().item() == pytest.approx(1, abs=1e-5)
    nowhere = torch.zeros(1, 1, dtype=torch.bool)
    empty = Ensemble(valid_masks_only=True).scores(trained, own * torch.nan, torch.tensor([True] * 2), nowhere)
    torch.testing.assert_close(empty[0, 0].exp(), trained[0, 0].softmax(-1), atol=1e-6, rtol=1e-5)


def test_masks_without_a_pixel_on_the_grid_of_clip_are_not_valid():
    masks = torch.full((1, 3, 8, 8), -1.0)
    masks[0, 1], masks[0, 2, 0, 0] = 1.0, 1.0  # the last one is too small to be seen at a quarter of the size
    assert valid_masks(masks, (2, 2)).tolist() == [[False, True, False]]


def test_training_lowers_the_losses(model):
    told = model.train().with_words(model.words(words("cat", "sofa|couch", "quark")))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    batch, totals = [training_picture(0), training_picture(1, 1), training_picture(2, 0)], []
    torch.manual_seed(0)
    for _ in range(25):
        losses = told(batch)
        total = sum(losses.values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert set(losses) == {f"loss_{p}{s}" for p in ("ce", "mask", "dice") for s in ("", "_0", "_1", "_2")}
    assert sum(totals[-5:]) < 0.8 * sum(totals[:5])


def test_released_names_come_back(model, tiny_convnext, tmp_path):
    official = {official_name(key): value for key, value in model.state_dict().items()}
    assert {"backbone.clip_model.logit_scale", "void_embedding.weight"} < set(official)
    assert "sem_seg_head.predictor.transformer_cross_attention_layers.2.multihead_attn.in_proj_weight" in official
    torch.save({"model": {**official, "criterion.empty_weight": torch.ones(134)}, "iteration": 7}, tmp_path / "a.pth")
    again = build(tiny_convnext, tmp_path / "a.pth", seed=4)
    assert again.weights_hash == model.weights_hash
    asked = model.words(words("cat", "quark"))
    assert_same(*(ask(one, [picture(64, 64)], asked, model.gives)[0] for one in (again, model)))


def test_mask_features_of_another_width_load_strictly_by_released_names(tiny_convnext, tmp_path):
    """Shapes are those of the authors' code with MASK_DIM and HIDDEN_DIM 20 on a pixel decoder of 32."""
    wide = build(tiny_convnext, MASK_DIM=20)
    state = {official_name(key): value for key, value in wide.state_dict().items()}
    pixel, predictor = "sem_seg_head.pixel_decoder.", "sem_seg_head.predictor."
    width = wide.pixel_decoder.dim
    assert width != 20 and state[f"{pixel}mask_features.weight"].shape == (20, width, 1, 1)
    assert {tuple(state[f"{predictor}input_proj.{i}.weight"].shape) for i in range(3)} == {(20, width, 1, 1)}
    assert (
        state[f"{predictor}query_feat.weight"].shape[1]
        == state[f"{predictor}_mask_pooling_proj.0.weight"].shape[0]
        == 20
    )
    torch.save({"model": state}, tmp_path / "wide.pth")
    again = build(tiny_convnext, tmp_path / "wide.pth", seed=4, MASK_DIM=20)
    assert again.weights_hash == wide.weights_hash and again.settings["options"]["mask_dim"] == 20
    asked = wide.words(words("cat", "quark"))
    assert_same(*(ask(one, [picture(64, 64)], asked, wide.gives)[0] for one in (again, wide)))
    with pytest.raises(WeightsError, match=r"has unexpected sem_seg_head\.predictor\.input_proj"):
        build(tiny_convnext, tmp_path / "wide.pth")


def test_our_own_checkpoints_may_lack_the_clip(model, tiny_convnext, tmp_path):
    head = {key: value for key, value in model.state_dict().items() if key.startswith(model.head)}
    save_file(head, tmp_path / "head.safetensors")
    assert build(tiny_convnext, tmp_path / "head.safetensors", seed=4).weights_hash == model.weights_hash
    save_file(model.state_dict(), tmp_path / "all.safetensors")
    assert build(tiny_convnext, tmp_path / "all.safetensors", seed=4).weights_hash == model.weights_hash


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("void_embedding.weight"), "misses void_embedding.weight"),
        (lambda state: state.update({"sem_seg_head.extra": torch.ones(1)}), "has unexpected sem_seg_head.extra"),
        (lambda state: state.update({"void_embedding.weight": torch.ones(2, 16)}), "mis-shaped void_embedding.weight"),
    ],
)
def test_what_does_not_fit_is_named(model, tiny_convnext, tmp_path, change, message):
    state = {official_name(key): value for key, value in model.state_dict().items()}
    change(state)
    torch.save({"model": state}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=message) as caught:
        build(tiny_convnext, tmp_path / "a.pth")
    assert "\n" not in str(caught.value)


def test_mistakes_are_one_line(tiny_convnext, tiny_clip):
    with pytest.raises(ConfigError, match=r"alpha 2\.0 and beta 0\.8; expected numbers in 0\.\.1"):
        build(tiny_convnext, ALPHA=2.0)
    with pytest.raises(ConfigError, match="AutoCLIP"):
        build(tiny_convnext, text={"AUTOCLIP": 0.5, "TEMPLATES": "vild14"})
    with pytest.raises(ConfigError, match="use a ConvNeXt or ResNet"):
        build(tiny_clip)


@pytest.mark.parametrize("name", ["fcclip-convnext-l", "fcclip-rn50", "fcclip-rn101", "fcclip-rn50x64"])
def test_released_models_say_what_to_fetch(name):
    with pytest.raises(WeightsError, match=r"fetch fcclip_cocopan.*\.pth from https://drive\.google\.com/file/d/.+"):
        ovseg.load(name, device="cpu")
