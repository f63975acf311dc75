"""SED beyond what all models are held to: templates apart, names, early rejection, what is tuned, its checkpoints."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from ovseg.aggregation import classes as classes_module
from ovseg.contract import CLASS_SCORES
from ovseg.engine.optimizer import parameter_groups
from ovseg.errors import ConfigError, WeightsError
from ovseg.meta_arch.counted import with_means
from ovseg.meta_arch.sed.decoder import among_the_best
from ovseg.meta_arch.sed.weights import official_name
from ovseg.vocabulary.queries import Queries
from tests.meta_arch import models
from tests.meta_arch.models import picture, training_picture, words
from tests.meta_arch.tester import NAMES, Largest, ask, assert_same

SCORES = frozenset({CLASS_SCORES})


def build(folder, weights="", seed=3, **changes):
    return models.build("sed", folder, weights, seed, **changes)


def test_templates_are_channels_and_the_names_of_a_class_are_averaged(tiny_convnext):
    model = build(tiny_convnext, PROMPTS=14, text={"TEMPLATES": "vild14"})
    asked = model.words(words("cat|kitten", "sofa"), "sky, wall")
    assert asked.embeddings.shape == (4, 14, 16) and asked.texts == ("cat", "sofa", "sky", "wall")
    assert asked.query_to_class.tolist() == [0, 1, -1, -1]
    every = build(tiny_convnext, PROMPTS=14, NAMES="all", text={"TEMPLATES": "vild14"}).words(
        words("cat|kitten", "sofa")
    )
    assert every.texts == ("cat", "kitten", "sofa")
    torch.testing.assert_close(asked.embeddings[0], F.normalize(every.embeddings[:2].mean(0), dim=-1))
    torch.testing.assert_close(every.embeddings.norm(dim=-1), torch.ones(3, 14))
    note = "names of a class are averaged in each template (NAMES: mean); 1 besides the first: kitten"
    assert note in asked.notes and not any("averaged" in one for one in every.notes)
    assert not any("averaged" in one for one in model.words(words("cat", "sofa")).notes)
    (found,) = ask(model, [picture(64, 64)], asked)
    assert found.labels.shape == (64, 64)
    with pytest.raises(ConfigError, match=r"the 1 templates of 'simple' do not fit: each is a channel .* which has 14"):
        model.words(words("cat", "sofa"), templates="simple")


@pytest.mark.parametrize("names", ["mean", "all", "first"])
def test_a_class_is_learnt_by_its_own_pixels_whatever_names_count(tiny_convnext, names):
    model = build(tiny_convnext, NAMES=names).train()
    own, asked = model.words(words("cat", "sofa|couch|settee", "quark")), []
    model.compare = lambda images, targets, rows: asked.append(rows) or {}
    model.with_words(own)([training_picture(count=3)])
    (rows,) = asked
    alone = build(tiny_convnext, NAMES="first").words(words("cat", "quark"))
    assert len(rows) == 3
    for place, name in ((0, 0), (2, 1)):
        torch.testing.assert_close(rows[place], alone.embeddings[name])


def test_labels_that_are_not_among_the_words_are_refused(tiny_convnext):
    model = build(tiny_convnext, NAMES="all").train()
    entry = {"image": picture(64, 64), "sem_seg": torch.full((64, 64), 2)}
    with pytest.raises(ConfigError, match="target classes range from 2 to 2; expected 0 to 1, the vocabulary's"):
        model.with_words(model.words(words("cat|kitten", "sofa")))([entry])


def test_many_names_are_averaged_in_one_pass(tiny_convnext):
    own = build(tiny_convnext, NAMES="all").words(words("cat", "sofa"))
    many = Queries(torch.randn(30_000, 1, 4), torch.arange(30_000) // 3, tuple(map(str, range(30_000))))
    many = replace(own, embeddings=many.embeddings, query_to_class=many.query_to_class, texts=many.texts)
    start = time.perf_counter()
    found = with_means(many)
    assert time.perf_counter() - start < 5  # comparing all names with all classes takes a minute
    wanted = F.normalize(many.embeddings.unflatten(0, (-1, 3)).mean(1), dim=-1)
    torch.testing.assert_close(found.embeddings, wanted, atol=1e-5, rtol=1e-4)
    assert found.texts[:2] == ("0", "3") and found.query_to_class.tolist() == list(range(10_000))


def test_early_rejection_drops_what_is_nowhere_among_the_best(tiny_convnext):
    fast, whole = (models.stirred(build(tiny_convnext, FAST=own, TOP=1), 5) for own in (True, False))
    asked, image = fast.words(words(*(f"thing {i}" for i in range(20)))), picture(96, 80)
    some, every = (ask(model, [image], asked, SCORES)[0] for model in (fast, whole))
    left = some.class_scores.amax((1, 2)) > 0
    note = f"{20 - int(left.sum())} of 20 words take no part in this image, for early rejection found them nowhere"
    assert note in some.notes[0] and not every.notes
    assert 0 < left.sum() < 20 and (every.class_scores.amax((1, 2)) > 0).all()
    decoded = fast.decoder(fast.encode([image]).images[0], asked.embeddings)
    assert decoded.classes.tolist() == left.nonzero().flatten().tolist()
    assert [set(a.tolist()) >= set(b.tolist()) for a, b in zip(decoded.left, decoded.left[1:], strict=False)] == [
        True
    ] * 2
    enough = models.stirred(build(tiny_convnext, FAST=True, TOP=20), 5)
    assert_same(ask(enough, [image], asked)[0], ask(whole, [image], asked)[0])
    assert among_the_best(torch.tensor([[[3.0, 0.0]], [[1.0, 1.0]], [[2.0, 0.5]]]), 1).tolist() == [0, 1]


@pytest.mark.parametrize("step", [1, 3, 0])
def test_classes_are_computed_a_few_at_a_time(tiny_convnext, step):
    model = models.stirred(build(tiny_convnext), 5)
    own = model.words(words(*NAMES))
    wanted = ask(model, [picture(60, 70)], own, SCORES)[0]
    model.decoder.step = step
    found = ask(model, [picture(60, 70)], own, SCORES)[0]
    torch.testing.assert_close(found.class_scores, wanted.class_scores, atol=1e-5, rtol=1e-4)


def test_maps_behind_the_last_stage_are_never_there_together(tiny_convnext, monkeypatch):
    """They are four times as large as those of the stage before, and no classes meet there any more."""
    monkeypatch.setattr(classes_module, "_VALUES", 1)  # maps are tiny here
    model, count = models.stirred(build(tiny_convnext), 5), 100
    own = model.words(words(*(f"thing {i}" for i in range(count))))
    encoded = model.encode([picture(64, 64)])
    with Largest() as largest:
        model.answer(encoded, 0, (32, 32), own)
    assert largest.numbers <= 1.1 * count * 16 * 16 * 16  # channels, and places behind the second stage


def test_what_is_tuned_and_how_fast(tiny_convnext):
    model, frozen = build(tiny_convnext), build(tiny_convnext, TUNED="none")
    of_clip = {name for name, weight in model.named_parameters() if weight.requires_grad and name.startswith("clip.")}
    assert of_clip == {name for name, _ in model.named_parameters() if name.startswith("clip.model.visual.")}
    assert not any(weight.requires_grad for weight in frozen.clip.parameters())
    groups = parameter_groups(model, models.config("sed", tiny_convnext))
    rates = {id(weight): (group["lr"], group["weight_decay"]) for group in groups for weight in group["params"]}
    assert rates[id(model.get_parameter("clip.model.visual.trunk.stem.0.weight"))] == pytest.approx((2e-6, 1e-4))
    assert rates[id(model.decoder.stages[0].cnext.norm.weight)] == pytest.approx((2e-4, 1e-4))
    assert rates[id(model.decoder.stages[0].classes.norm1.weight)] == pytest.approx((2e-4, 0))


def test_a_training_learns_and_leads_give_clip_no_gradient(tiny_convnext):
    model = build(tiny_convnext).train()
    told = model.with_words(model.words(words("cat", "sofa|couch", "quark")))
    optimizer, totals = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3), []
    for _ in range(15):
        losses = told([training_picture(seed) for seed in range(2)])
        assert set(losses) == {f"loss_sem_seg_{i}" for i in range(4)}
        total = sum(losses.values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < 0.8 * totals[0]
    alone = told([training_picture()])["loss_sem_seg_1"]  # of a head before a stage, which has what it sees detached
    learnt = {name: p for name, p in model.named_parameters() if p.requires_grad}
    grads = torch.autograd.grad(alone, list(learnt.values()), allow_unused=True)
    assert {name for name, own in zip(learnt, grads, strict=True) if own is not None} == {
        "decoder.early.0.weight",
        "decoder.early.0.bias",
    }


def test_texts_are_not_embedded_anew_when_the_image_tower_has_learnt(tiny_convnext, monkeypatch):
    model, asked = build(tiny_convnext), []
    text = model.clip.text
    monkeypatch.setattr(model.clip, "text", lambda texts: (asked.extend(texts), text(texts))[1])
    before, own = model.weights_hash, model.words(words("cat", "an emu of mine"))
    assert "an emu of mine" in asked[-1]
    asked.clear()
    model.train()
    with torch.no_grad():
        model.get_parameter("clip.model.visual.trunk.stem.0.weight").mul_(1.1)
    model.eval()
    again = model.words(words("cat", "an emu of mine"))
    assert not asked and model.weights_hash != before and own.embedded_by != again.embedded_by
    assert torch.equal(own.embeddings, again.embeddings)
    model.train()
    with torch.no_grad():
        model.get_parameter("clip.model.text_projection").mul_(-1)
    model.eval()
    torch.testing.assert_close(model.words(words("cat", "an emu of mine")).embeddings, -own.embeddings)
    assert asked


def test_released_names(tiny_convnext, tmp_path):
    model = models.stirred(build(tiny_convnext), 5)
    state = {official_name(key): value for key, value in model.state_dict().items()}
    assert {"sem_seg_head.predictor.transformer.decoder2.attention.MLP.2.bias"} < state.keys()
    assert {
        "sem_seg_head.predictor.transformer.head2.bias",
        "sem_seg_head.predictor.transformer.head.bias",
    } < state.keys()
    torch.save({"model": state}, tmp_path / "sed.pth")
    loaded = build(tiny_convnext, tmp_path / "sed.pth", seed=9)
    assert loaded.weights_hash == model.weights_hash != build(tiny_convnext, seed=9).weights_hash
    state.pop("sem_seg_head.predictor.transformer.head0.bias")
    torch.save({"model": state}, tmp_path / "sed.pth")
    with pytest.raises(WeightsError, match=r"sed\.pth does not fit SED: it misses .*head0\.bias"):
        build(tiny_convnext, tmp_path / "sed.pth")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"RESOLUTION": 100}, "resolution is 100; expected a multiple of 32"),
        ({"KERNELS": [9, 9]}, r"kernels is \[9, 9\]; expected 3 numbers"),
        ({"RESOLUTION": 0}, "resolution is 0; expected a multiple of 32"),
        ({"KERNELS": [3, 4, 3]}, "kernels has 4; expected odd numbers"),
        ({"KERNELS": [3, 3, -1]}, "kernels has -1; expected odd numbers"),
        ({"DECODER_DIMS": [32, 16, 8]}, "decoder_dims has 8; expected multiples of 16"),
        ({"DECODER_DIMS": [32, 40, 16]}, "decoder_dims has 40; expected multiples of 16"),
        ({"HEADS": 3}, "heads is 3, and the maps have 32 channels there"),
        ({"DECODER_GUIDANCE": [8, 32, 2]}, "decoder_guidance has 32 where maps have 32 channels; expected 1 to 31"),
        ({"DECODER_GUIDANCE": [8, 4, 0]}, "decoder_guidance is 0; expected at least 1"),
        ({"TRAIN_POOLING": [0, 1]}, "train_pooling is 0; expected at least 1"),
        ({"POOLING": [5, 1]}, r"pooling is \[5, 1\] on a grid of 4 x 4"),
        ({"HIDDEN": 0}, "hidden is 0; expected at least 1"),
        ({"SIZE_DIVISIBILITY": 0}, "size_divisibility is 0; expected at least 1"),
        ({"TOP": 0}, "top is 0; expected at least 1"),
        ({"NAMES": "some"}, "names is 'some'"),
        ({"protocol": {"WINDOW": 32}}, r"MODEL\.PROTOCOL\.WINDOW is 32, but SED has of the protocol only"),
    ],
)
def test_configs_that_do_not_fit(tiny_convnext, changes, message):
    with pytest.raises(ConfigError, match=message):
        build(tiny_convnext, **changes)


def test_towers_that_do_not_fit(tiny_resnet):
    with pytest.raises(ConfigError, match=r"SED embeds pixels as a ConvNeXt does, .* use a ConvNeXt"):
        build(tiny_resnet)
