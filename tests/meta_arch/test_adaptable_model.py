"""Models with an adapter of masks: what is trained, which files fit, where it cannot be."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from ovseg.checkpoint.trained import save_trained, trained_state
from ovseg.errors import ConfigError, WeightsError
from ovseg.zoo import build, resolve
from tests.meta_arch import models
from tests.meta_arch.models import picture, training_picture, words
from tests.meta_arch.tester import ask, assert_same

PLAIN = {"fcclip_adapter": "fcclip", "maft_plus_adapter": "maft_plus"}
TINY = {"ADAPTER_WIDTH": 24, "ADAPTER_MAPS": 3}
WARM = {"ADAPTER_STAGE": "ground-truth", "ADAPTER_TRUE_MASKS": 4}
NAMES = words("cat", "sofa|couch", "quark")


@pytest.fixture(params=["fcclip_adapter", pytest.param("maft_plus_adapter", marks=pytest.mark.slow)])
def file(request):
    return request.param


def adapted(file, folder, weights="", **changes):
    return models.build(file, folder, weights, **TINY, **changes)


def released(model, path):
    """Write the weights of a model as its authors do."""
    torch.save({"model": {model.official.name_of(key): value for key, value in model.state_dict().items()}}, path)
    return path


def moved(model):
    """The model with all changed that is trained."""
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    model.refresh_hash()
    return model


def results(model):
    return ask(model, [picture(64, 64)], model.words(words("cat", "quark")), model.gives)[0]


@pytest.fixture
def plain(file, tiny_convnext, tmp_path):
    """The model that an adapter stands on, stirred, and its file."""
    model = models.stirred(models.build(PLAIN[file], tiny_convnext), 1)
    return model, released(model, tmp_path / "plain.pth")


@pytest.mark.parametrize("stage", ["ground-truth", "mixed"])
def test_only_the_adapter_is_trained_and_no_object_with_it(file, tiny_convnext, stage):
    model = adapted(file, tiny_convnext, ADAPTER_STAGE=stage)
    found = {name.partition(".")[0] for name, value in model.named_parameters() if value.requires_grad}
    void = {"warm_void"} if stage == "ground-truth" else {"void"} if file == "fcclip_adapter" else set()
    assert found == {"adapter"} | void
    assert all(value.requires_grad for value in model.adapter.parameters())


def test_an_adapter_starts_on_a_file_without_one(file, plain, tiny_convnext, tmp_path):
    model, path = plain
    with_one = adapted(file, tiny_convnext, path, **WARM)
    assert with_one.untrained == "plain.pth has no adapter of masks, which is new"
    own, state = model.state_dict(), with_one.state_dict()
    assert all(torch.equal(state[key], value) for key, value in own.items())
    assert {key.partition(".")[0] for key in state.keys() - own.keys()} == {"adapter", "warm_void"}
    ours = tmp_path / "ours.safetensors"
    save_trained(trained_state(model), ours)
    assert torch.equal(adapted(file, tiny_convnext, ours).state_dict()["void.weight"], own["void.weight"])


def test_what_a_training_leaves_holds_what_it_stands_on(file, plain, tiny_convnext, tmp_path):
    """So that no other file is needed but CLIP's; and of the warm-up nothing is left but the adapter."""
    warm = moved(adapted(file, tiny_convnext, plain[1], **WARM))
    save_trained(trained_state(warm), tmp_path / "warm.safetensors")
    assert adapted(file, tiny_convnext, tmp_path / "warm.safetensors", seed=9, **WARM).weights_hash == warm.weights_hash
    mixed = adapted(file, tiny_convnext, tmp_path / "warm.safetensors", seed=9)
    assert not mixed.untrained and "warm_void.weight" not in mixed.state_dict()
    assert torch.equal(mixed.void.weight, plain[0].void.weight)
    assert_same(results(mixed), results(warm))
    save_trained(trained_state(mixed), tmp_path / "mixed.safetensors")
    again = adapted(file, tiny_convnext, tmp_path / "mixed.safetensors", seed=9)
    assert again.weights_hash == mixed.weights_hash
    assert_same(results(again), results(mixed))


def test_released_names_come_back(file, plain, tiny_convnext, tmp_path):
    model = moved(adapted(file, tiny_convnext, plain[1]))
    path = released(model, tmp_path / "adapter.pth")
    names = torch.load(path)["model"]
    assert {"mask_adapter.cnext3.pwconv2.weight", "mask_adapter.mask_downscaling.6.bias"} < set(names)
    again = adapted(file, tiny_convnext, path, seed=9)
    assert again.weights_hash == model.weights_hash and not again.untrained
    assert_same(results(again), results(model))
    with pytest.raises(WeightsError, match=r"has unexpected mask_adapter\."):
        models.build(PLAIN[file], tiny_convnext, path)
    del names["mask_adapter.fuse.bias"]
    torch.save({"model": names}, path)
    with pytest.raises(WeightsError, match=r"misses mask_adapter\.fuse\.bias"):
        adapted(file, tiny_convnext, path)


def test_results_of_a_new_adapter_are_refused(file, plain, tiny_convnext, tmp_path):
    config = models.write_config(tmp_path / "own.yaml", file, tiny_convnext, plain[1], **TINY)
    with pytest.raises(WeightsError, match=r"plain.pth has no adapter of masks, .*ADAPTER False"):
        build(resolve(config))
    assert build(resolve(config), untrained=True).untrained


def test_an_adapter_is_not_trained_on_a_random_head(file, plain, tiny_convnext, tmp_path):
    """Which is found before the CLIP is read."""
    config = models.write_config(tmp_path / "own.yaml", file, tmp_path / "no CLIP", **TINY)
    with pytest.raises(ConfigError, match=r"this one has no weights; give those of (FC-CLIP|MAFT\+), or of a training"):
        build(resolve(config), untrained=True)
    model = adapted(file, tiny_convnext, plain[1], TRAINED_VOCABULARY="")
    model.start_training(model.words(NAMES))
    assert model.trained_names == {"cat", "sofa", "couch", "quark"}


def test_without_an_adapter_masks_are_pooled_as_ever(file, plain, tiny_convnext):
    """To the last bit, and the adapter makes a difference."""
    off = models.build(file, tiny_convnext, plain[1], ADAPTER=False, ALPHA=0.4, BETA=0.8)
    on = models.build(PLAIN[file], tiny_convnext, plain[1], ALPHA=0.4, BETA=0.8)
    off.size_rule = on.size_rule
    seen, wanted = (model.encode([picture(64, 64)]).images[0] for model in (off, on))
    assert torch.equal(seen.pooled, wanted.pooled) and off.state_dict().keys() == on.state_dict().keys()
    adapter = adapted(file, tiny_convnext, plain[1]).encode([picture(64, 64)]).images[0]
    assert torch.equal(adapter.masks, wanted.masks) and (adapter.pooled - wanted.pooled).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["fcclip", "fcclip_adapter", "maft_plus", "maft_plus_adapter"])
def test_features_come_to_the_joint_space_once_an_image_at_most(kind, tiny_convnext, monkeypatch):
    options = TINY if kind.endswith("adapter") else {}
    model, calls = models.build(kind, tiny_convnext, **options), []
    own = type(model).image_features
    monkeypatch.setattr(type(model), "image_features", lambda self, dense: calls.append(1) or own(self, dense))
    results(model)
    assert len(calls) == (kind != "fcclip")


@pytest.mark.parametrize("stage", ["ground-truth", "mixed"])
def test_training_lowers_the_losses(file, plain, tiny_convnext, stage):
    torch.manual_seed(0)
    options = {"ADAPTER_STAGE": stage, "ADAPTER_TRUE_MASKS": 4, "ADAPTER_MATCHED_MASKS": 2, "ADAPTER_OVERLAP": 0.05}
    model = adapted(file, tiny_convnext, plain[1], **options)
    told = model.train().with_words(model.words(NAMES))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    batch, totals = [training_picture(0), training_picture(1, 1), training_picture(2, 0)], []
    for _ in range(25):
        losses = told(batch)
        total = sum(losses.values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert set(losses) == {"loss_ce"} | ({"loss_cosine"} if stage == "mixed" else set())
    assert sum(totals[-5:]) < 0.9 * sum(totals[:5])
    moved = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert moved == {name for name, value in model.named_parameters() if value.requires_grad}


def test_class_ids_that_the_words_have_not_are_refused(file, tiny_convnext):
    model = adapted(file, tiny_convnext).train()
    with pytest.raises(ConfigError, match="target classes range from 0 to 2; expected 0 to 1"):
        model.with_words(model.words(words("cat", "sofa"), "none"))([training_picture(count=3)])


def test_an_adapter_needs_a_clip_that_embeds_pixels(tiny_resnet, deeper_clip):
    with pytest.raises(ConfigError, match=r"an adapter looks at single pixels, .*; use a ConvNeXt"):
        adapted("fcclip_adapter", tiny_resnet)
    last = {"NAME": "ClearCLIP", "OPTIONS": {"MODEL_TYPE": "MaskCLIP", "LAST_N_LAYERS": 1}}
    model = models.build("fcclip_vit", deeper_clip, recalibration=last, ADAPTER=True, **TINY)
    dense = model.clip.levels(torch.zeros(1, 3, 64, 64))["dense"]
    assert torch.equal(model.image_features(dense), dense)  # there already
    assert results(model).scores.isfinite().all()


def test_packed_it_answers_alike(plain, file, tiny_convnext):
    model = adapted(file, tiny_convnext, plain[1])
    with torch.no_grad():
        for block in model.adapter.blocks:
            block.gamma.fill_(1.0)
    wanted = results(model)
    model.pack()
    assert "Packed" in type(model.adapter.blocks[0].mlp.fc1).__name__
    torch.testing.assert_close(results(model).class_scores, wanted.class_scores, atol=1e-4, rtol=0)


def test_a_file_of_ours_may_lack_the_clip(file, plain, tiny_convnext, tmp_path):
    model = adapted(file, tiny_convnext, plain[1])
    save_file(model.state_dict(), tmp_path / "all.safetensors")
    assert adapted(file, tiny_convnext, tmp_path / "all.safetensors", seed=9).weights_hash == model.weights_hash
