"""MAFT+ beyond what all models are held to: texts of the image, what training tunes, its checkpoints."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import save_file

import ovseg
from ovseg.checkpoint.trained import save_trained, trained_state
from ovseg.engine.optimizer import parameter_groups
from ovseg.errors import ConfigError, InputError, WeightsError
from ovseg.meta_arch.maft_plus.weights import official_name
from tests.meta_arch import models
from tests.meta_arch.models import picture, training_picture, words
from tests.meta_arch.tester import ask, assert_same

TRUNK = "clip.model.visual.trunk."
WIDE = (64, 128)


def build(folder, weights="", file="maft_plus", **changes):
    return models.build(file, folder, weights, **changes)


@pytest.fixture
def model(tiny_convnext):
    return build(tiny_convnext)


@pytest.fixture
def tuned(model):
    """The model after a training that changed all it may change."""
    torch.manual_seed(4)
    model.train()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn_like(parameter))
    return model.eval()


def told(model):
    """The model with words, for training."""
    return model.train().with_words(model.words(words("cat", "sofa|couch", "quark")))


def assert_equal(one, other):
    asked = one.words(words("cat", "quark"))
    assert one.weights_hash == other.weights_hash
    assert_same(*(ask(model, [picture(64, 64)], asked, one.gives)[0] for model in (one, other)))


def official(model, teacher=True):
    """Return the weights of a model as the authors' code would save them."""
    state = {official_name(key): value for key, value in model.state_dict().items()}
    clip = model.original().model.state_dict()
    second = {f"backbone_t.clip_model.{key}": value for key, value in clip.items()} if teacher else {}
    return {**state, **second, "criterion.empty_weight": torch.ones(172)}


def test_the_panoptic_transfer_starts_as_no_change(tiny_convnext):
    rows = {}
    for panoptic in (True, False):
        model = build(tiny_convnext, PANOPTIC_TRANSFER=panoptic)
        with torch.no_grad():
            texts = model.rows(model.words(words("cat", "sofa")))
            rows[panoptic] = model.transfer(torch.randn(2, 16, 3, 4), texts) - texts
    assert not rows[True].any() and rows[False].abs().max() > 0.1


def test_texts_look_at_their_own_image(tuned):
    asked = tuned.words(words("cat", "quark"))
    first, second = tuned.encode([picture(64, 64, seed) for seed in range(2)]).images
    with torch.inference_mode():
        own, other = (tuned.adapted_logits(seen.looks[None], first.pooled[None], asked) for seen in (first, second))
    assert (own - other).abs().max() > 1e-3


def test_features_are_cut_as_in_the_original(model):
    dense = torch.randn(2, 64, 2, 3)
    with torch.no_grad():
        found = model.image_features(dense)
        flat = dense[1].flatten()
        wanted = [model.clip.tower.embed(flat[i * 64 : i * 64 + 64][None, None])[0, 0] for i in range(6)]
    assert found.shape == (2, 16, 2, 3)
    torch.testing.assert_close(found[1].flatten(1).T, torch.stack(wanted))


def test_what_is_trained_and_how_fast(model, tiny_convnext):
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name for name in trainable if name.startswith("clip.")} == {
        name
        for name, _ in model.named_parameters()
        if name.startswith((f"{TRUNK}stem.", f"{TRUNK}stages.", f"{TRUNK}norm_pre."))
    }
    assert {name.partition(".")[0] for name in trainable} == {"clip", "pixel_decoder", "decoder", "void", "transfer"}
    groups = parameter_groups(model, models.config("maft_plus", tiny_convnext))
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        wanted = None if name not in trainable else 1e-5 if name.startswith("clip.") else 1e-4
        assert rates.get(id(parameter)) == (wanted and pytest.approx(wanted)), name


def test_which_loss_reaches_what(model):
    torch.manual_seed(0)
    losses = told(model)([training_picture(size=WIDE), training_picture(1, 1, WIDE)])
    assert set(losses) == {
        *(f"loss_{part}{suffix}" for part in ("ce", "mask", "dice") for suffix in ("", "_0", "_1", "_2")),
        *("loss_ma", "loss_rc"),
    }
    assert losses["loss_rc"] == 0  # nothing has been tuned yet
    tower, change = model.get_parameter(f"{TRUNK}stem.0.weight"), model.transfer.linear.weight

    def gradients(*losses):
        return torch.autograd.grad(
            sum(losses), (tower, change, model.void.weight), retain_graph=True, allow_unused=True
        )

    head = gradients(*(loss for name, loss in losses.items() if name not in ("loss_ma", "loss_rc")))
    assert head[0] is None and head[1] is None and head[2].any()
    ranking = gradients(losses["loss_ma"])
    assert ranking[0].any() and ranking[1].any() and (ranking[2] is None or not ranking[2].any())
    kept = gradients(losses["loss_rc"])
    assert kept[1] is None and kept[2] is None


def test_a_training_learns_and_its_teacher_does_not(model):
    trained = told(model)
    before = copy.deepcopy(model.clip.model.visual.trunk.state_dict())
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    batch, totals = [training_picture(seed, count, WIDE) for seed, count in enumerate((2, 1, 0))], []
    torch.manual_seed(0)
    for _ in range(20):
        losses = trained(batch)
        total = sum(losses.values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert sum(totals[-4:]) < 0.85 * sum(totals[:4]) and losses["loss_rc"] > 0
    after, teacher = model.clip.model.visual.trunk.state_dict(), model.teacher.trunk.state_dict()
    assert all(torch.equal(teacher[key], before[key]) for key in before)
    moved = {key for key in before if not torch.equal(after[key], before[key])}
    assert moved == {key for key in before if not key.startswith("head.")}
    assert not any(key.startswith("teacher") for key in model.state_dict())


def test_images_that_are_too_small_to_keep_clip_by_are_refused(model):
    with pytest.raises(InputError, match="wider images"):
        told(model)([{"image": picture(64, 64), "sem_seg": torch.ones(64, 64, dtype=torch.long)}])


def test_mask_features_of_another_width_load_by_released_names(tiny_convnext, tmp_path):
    wide = build(tiny_convnext, MASK_DIM=20)
    assert official(wide)["sem_seg_head.predictor.input_proj.2.bias"].shape == (20,)
    torch.save({"model": official(wide)}, tmp_path / "wide.pth")
    assert_equal(build(tiny_convnext, tmp_path / "wide.pth", seed=4, MASK_DIM=20), wide)


@pytest.mark.parametrize("teacher", [True, False])
def test_released_names_come_back(tuned, tiny_convnext, tmp_path, teacher):
    state = official(tuned, teacher)
    assert {"cdt.cross_atten.MLP.weight", "cdt.cross_atten.multihead_attn.in_proj_weight"} < set(state)
    torch.save({"model": state, "iteration": 7}, tmp_path / "a.pth")
    again = build(tiny_convnext, tmp_path / "a.pth")
    assert_equal(again, tuned)


def test_training_goes_on_from_released_weights_with_the_first_teacher(tuned, tiny_convnext, tmp_path):
    torch.save({"model": official(tuned)}, tmp_path / "a.pth")
    again = build(tiny_convnext, tmp_path / "a.pth")
    assert told(again)([training_picture(size=WIDE)])["loss_rc"] > 0
    assert again.get_parameter(f"{TRUNK}stem.0.weight").requires_grad


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("void_embedding.weight"), "misses void_embedding.weight"),
        (lambda state: state.pop("backbone_t.clip_model.logit_scale"), r"misses backbone_t\.clip_model\.logit_scale"),
        (lambda state: state.update({"backbone_t.more": torch.ones(1)}), r"has unexpected backbone_t\.more"),
        (lambda state: state.update({"cdt.more": torch.ones(1)}), r"has unexpected cdt\.more"),
        (
            lambda state: state.update({"backbone_t.clip_model.visual.trunk.stem.0.weight": torch.ones(2, 3)}),
            r"mis-shaped backbone_t\.clip_model\.visual\.trunk\.stem\.0\.weight",
        ),
    ],
)
def test_what_does_not_fit_is_named(model, tiny_convnext, tmp_path, change, message):
    state = official(model)
    change(state)
    torch.save({"model": state}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=message) as caught:
        build(tiny_convnext, tmp_path / "a.pth")
    assert "\n" not in str(caught.value)


def test_what_was_trained_is_all_that_has_to_be_kept(tuned, tiny_convnext, tmp_path):
    own = trained_state(tuned)
    assert f"{TRUNK}stem.0.weight" in own and not any("transformer" in key for key in own)
    save_file({key: value.contiguous() for key, value in own.items()}, tmp_path / "part.safetensors")
    save_trained(own, tmp_path / "exported.safetensors")
    save_file(tuned.state_dict(), tmp_path / "all.safetensors")
    for name in ("part", "exported", "all"):
        assert_equal(build(tiny_convnext, tmp_path / f"{name}.safetensors", seed=4), tuned)


def test_mistakes_are_one_line(tiny_convnext, tiny_resnet):
    with pytest.raises(ConfigError, match="use a ConvNeXt"):
        build(tiny_resnet)
    with pytest.raises(ConfigError, match="AutoCLIP"):
        build(tiny_convnext, text={"AUTOCLIP": 0.5, "TEMPLATES": "vild14"})


@pytest.mark.parametrize("name", ["maftp-b", "maftp-l", "maftp-l-pano"])
def test_released_models_say_what_to_fetch(name):
    with pytest.raises(WeightsError, match=r"fetch maftp_.+\.pth from https://drive\.google\.com/file/d/.+"):
        ovseg.load(name, device="cpu")
