"""CAT-Seg beyond what all models are held to: a plain form of it, its options, memory, checkpoints, what is tuned."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from ovseg.config import config_root
from ovseg.contract import CLASS_SCORES
from ovseg.data.renaming import read_renames, rename_classes
from ovseg.engine.optimizer import parameter_groups
from ovseg.errors import ConfigError, WeightsError
from ovseg.meta_arch.cat_seg import CATSeg
from ovseg.meta_arch.cat_seg.weights import official_name
from ovseg.vocabulary import Vocabulary
from ovseg.zoo.names import resolve
from tests.meta_arch import models
from tests.meta_arch.models import picture, training_picture, words
from tests.meta_arch.tester import NAMES, Largest, ask, assert_same

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))
from benchmarks.plain_cat_seg import PlainCatSeg, Sizes

SCORES = frozenset({CLASS_SCORES})
MANY = [f"thing {i}" for i in range(30)]


def build(folder, weights="", seed=3, **changes):
    return models.build("cat_seg", folder, weights, seed, **changes)


@pytest.fixture
def folder(deeper_clip):
    return deeper_clip


def plain(model, fill=10):
    """The plain form of a tiny model, with its weights."""
    state = {official_name(key): value for key, value in model.state_dict().items()}
    return PlainCatSeg(state, Sizes(2, 8, 64, (1, 2), 8, 4, 4, fill))


@pytest.mark.parametrize("names", [NAMES[:3], MANY], ids=["filled", "cut"])
@pytest.mark.parametrize(("sliding", "stays"), [(False, False), (False, True), (True, True)])
@torch.no_grad()
def test_the_plain_form_says_the_same(folder, names, sliding, stays):
    model, size = models.stirred(build(folder, SLIDING=sliding, MOST=10, PADDING_STAYS=stays), 5), (70, 61)
    own, image = model.words(words(*names)), picture(60, 84)
    (found,) = ask(model, [image], own, SCORES, size)
    normal = model.normalise(image[None])
    if sliding:
        every = plain(model).sliding(normal[0], own.embeddings, size, 80, 48, 32)
    else:
        normal = F.pad(normal, (0, 12, 0, 4)) if stays else normal
        square = F.interpolate(normal, (64, 64), mode="bilinear", align_corners=False)
        logits = plain(model).logits(square, own.embeddings)
        every = F.interpolate(logits.sigmoid(), size, mode="bilinear", align_corners=False)[0]
    classes = torch.stack([every[own.query_to_class == i].amax(0) for i in range(len(names))])
    torch.testing.assert_close(found.class_scores, classes, atol=2e-5, rtol=1e-4)
    clear = classes.topk(2, dim=0).values.diff(dim=0)[0].abs() > 1e-4
    assert torch.equal(found.labels[clear].long(), classes.argmax(0)[clear]) and clear.float().mean() > 0.3


def test_what_is_seen_whole_stays_where_it_is(folder):
    """An image that is a pixel larger than a multiple of `SIZE_DIVISIBILITY` has the maps of one that is not."""
    blurred = picture(12, 12)[None].float()
    small, large = (
        F.interpolate(blurred, size, mode="bilinear", align_corners=False)[0] for size in ((64, 64), (65, 97))
    )
    off = []
    for stays in (False, True):
        model = models.stirred(build(folder, SLIDING=False, PADDING_STAYS=stays), 5)
        own = model.words(words(*NAMES))
        found = [ask(model, [image], own, SCORES, (64, 64))[0].class_scores for image in (small, large)]
        off.append((found[0] - found[1]).abs().mean())
    assert off[0] < 0.25 * off[1]


def test_all_classes_are_exact_and_the_nearest_are_what_the_original_takes(folder):
    cut, exact = (models.stirred(build(folder, SLIDING=False, MOST=most), 5) for most in (10, 0))
    own = exact.words(words(*MANY))
    few, all_ = (ask(model, [picture(64, 64)], own, SCORES)[0] for model in (cut, exact))
    assert (few.class_scores.amax((1, 2)) > 0).sum() == 10 and (all_.class_scores.amax((1, 2)) > 0).all()
    assert exact.settings["options"]["most"] == 0 and cut.settings["options"]["most"] == 10


@pytest.mark.parametrize(("count", "most", "said"), [(8, 8, False), (9, 8, True)])
@pytest.mark.parametrize("sliding", [False, True])
def test_a_list_that_is_cut_says_so(folder, count, most, said, sliding):
    """Synonyms and words of the background take places, too."""
    model = models.stirred(build(folder, SLIDING=sliding, MOST=most), 5)
    own = model.words(words("cat|kitten|tom", "sofa", "lamp"), ", ".join(f"thing {i}" for i in range(count - 5)))
    note = (
        f"each view of an image is compared with the 8 nearest of {count} words, synonyms and those of the background"
    )
    assert len(own.texts) == count and any(note in one for one in own.notes) == said
    (found,) = ask(model, [picture(64, 64)], own)
    with torch.inference_mode():
        maps = model.maps(model.encode([picture(64, 64)]).images[0], own)
    left = (
        f"{count - len(maps.words)} of {count} words take no part in this image, for they are among the nearest of none"
    )
    assert bool(found.notes) == (len(maps.words) < count) and all(left in one for one in found.notes)
    assert said or not found.notes
    assert sliding or said == bool(found.notes)


@pytest.mark.parametrize("step", [1, 3, 0])
def test_classes_are_computed_a_few_at_a_time(folder, step):
    model = models.stirred(build(folder, MOST=0), 5)
    own = model.words(words(*NAMES))
    wanted = ask(model, [picture(60, 70)], own, SCORES)[0]
    model.aggregator.step = step
    torch.testing.assert_close(ask(model, [picture(60, 70)], own, SCORES)[0].class_scores, wanted.class_scores)


def test_memory_does_not_grow_with_words_beyond_those_that_are_looked_at(folder):
    model, sizes = build(folder, MOST=20), []
    encoded = model.encode([picture(64, 64)])
    for count in (20, 200):
        own = model.words(words(*(f"thing {i}" for i in range(count))))
        with Largest() as largest:
            model.answer(encoded, 0, (200, 300), own)
        sizes.append(largest.numbers)
    assert sizes[1] <= sizes[0] * 1.5


def test_the_first_name_alone_as_the_original_measures(folder):
    first, every = (models.stirred(build(folder, NAMES=names), 5) for names in ("first", "all"))
    vocabulary = words("cat|kitten|tom", "sofa", "lamp|light")
    asked = first.words(vocabulary)
    assert asked.texts == ("cat", "sofa", "lamp") and asked.vocabulary == vocabulary
    assert "synonyms do not count (NAMES: first), 3 are left out: kitten, tom, light" in asked.notes
    alone = every.words(words("cat", "sofa", "lamp"))
    assert_same(*(ask(model, [picture(64, 64)], own)[0] for model, own in ((first, asked), (every, alone))))
    assert not any("synonyms do not" in note for note in first.words(words("cat", "sofa")).notes)


@pytest.mark.parametrize("name", ["ade150", "ade847", "pc59", "pc459", "voc20"])
@pytest.mark.parametrize("model", ["catseg-b", "catseg-l"])
def test_published_numbers_can_be_asked_for(model, name):
    assert (
        resolve(model, name).config.MODEL.CATSeg.NAMES == "first"
        and resolve(model).config.MODEL.CATSeg.get("NAMES", "all") == "all"
    )


def test_voc_with_background_as_the_authors_measure(folder):
    """The command of the page: 59 texts, of which all beyond VOC's twenty are one class."""
    page = (config_root().parent / "docs/models.md").read_text()
    (renames,) = re.findall(r'--dataset voc21 .*--rename "(background=[^"]*)"', page.replace("\\\n", ""))
    classes = rename_classes(Vocabulary.parse("voc21"), read_renames(renames), "voc21").classes
    twenty, context = Vocabulary.parse("voc20").names, Vocabulary.parse("pc59").names
    own = build(folder).words(classes)
    assert len(own.texts) == 59
    assert set(own.texts) == {*twenty, *context} - {"table"} and len(own.vocabulary) == 21
    assert [own.texts[i] for i in (own.query_to_class > 0).nonzero().flatten()] == list(twenty)
    assert (own.query_to_class == 0).sum() == 39 and not (own.query_to_class < 0).any()


@pytest.mark.parametrize(
    ("tuned", "ends"),
    [
        ("attention", {"attn.q_proj_weight", "attn.v_proj_weight"}),
        ("none", set()),
        ("full", {"ln_1.weight", "mlp.c_fc.bias", "attn.k_proj_weight", "attn.in_proj_bias", "attn.q_proj_weight"}),
    ],
)
def test_what_is_tuned_and_how_fast(folder, tuned, ends):
    model = build(folder, TUNED=tuned)
    of_clip = {name for name, weight in model.named_parameters() if weight.requires_grad and name.startswith("clip.")}
    for tower in ("clip.model.visual.transformer", "clip.model.transformer"):
        own = {name.partition(".resblocks.")[2].partition(".")[2] for name in of_clip if name.startswith(tower)}
        assert own == ends if tuned != "full" else own >= ends
    assert all("transformer.resblocks" in name for name in of_clip)
    if tuned == "attention":
        groups = parameter_groups(model, models.config("cat_seg", folder))
        rates = {id(weight): group["lr"] for group in groups for weight in group["params"]}
        for name, weight in model.named_parameters():
            wanted = None if not weight.requires_grad else 2e-6 if name.startswith("clip.") else 2e-4
            assert rates.get(id(weight)) == (wanted and pytest.approx(wanted)), name


def test_a_training_learns_by_both_towers(folder):
    model = build(folder, SLIDING=False).train()
    told = model.with_words(model.words(words("cat", "sofa|couch", "quark")))
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    learnt = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer, losses = torch.optim.AdamW(learnt, lr=3e-3, weight_decay=0.0), []
    for _ in range(25):
        loss = told([training_picture(seed) for seed in range(2)])["loss_sem_seg"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    moved = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    idle = {f"clip.model.visual.transformer.resblocks.{model.clip.depth - 1}.attn.q_proj_weight"}
    assert moved == {name for name, weight in model.named_parameters() if weight.requires_grad} - idle


def test_the_text_tower_is_where_it_learns_before_an_optimizer_is_filled(folder, monkeypatch):
    model, places = build(folder, SLIDING=False), []
    monkeypatch.setattr(model.clip, "move_text", places.append)
    own = model.place(torch.device("cpu"), torch.float32).words(words("cat", "sofa"))
    places.clear()
    model.start_training(own)
    assert places == [model.clip.device]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ({"TEMPLATES": "vild14"}, "CAT-Seg learns by one template, and 'vild14' has 14; set MODEL.TEXT.TEMPLATES to"),
        ({"DESCRIPTIONS": "FILE"}, "CAT-Seg learns by the names of classes as they are, and MODEL.TEXT.DESCRIPTIONS"),
        ({"SUBCLASSES": "FILE"}, "CAT-Seg learns by the names of classes as they are, and MODEL.TEXT.SUBCLASSES"),
        ({"LONG_TEXT": True}, "CAT-Seg learns by the names of classes as they are, and MODEL.TEXT.LONG_TEXT"),
    ],
)
def test_texts_that_a_training_does_not_learn_by_are_refused(folder, tmp_path, text, message):
    """Answers would be made by other rows than those that were learnt."""
    (tmp_path / "own.json").write_text('{"cat": ["a cat with fur", "a cat at home"]}')
    text = {key: str(tmp_path / "own.json") if value == "FILE" else value for key, value in text.items()}
    with pytest.raises(ConfigError, match=message):
        CATSeg.check_training(models.config("cat_seg", folder, text=text))
    model = build(folder, SLIDING=False, text=text)
    own = model.words(words("cat", "sofa"))
    with pytest.raises(ConfigError, match=message):
        model.start_training(own)
    with pytest.raises(ConfigError, match=message):
        model.train().with_words(own)([training_picture()])


@pytest.mark.parametrize(
    ("fill", "chosen", "names", "said"),
    [
        (10, 0, 10, True),
        (10, 0, 9, False),
        (10, 10, 30, True),
        (0, 9, 30, False),
    ],
)
def test_a_row_that_no_step_reaches_is_said(folder, caplog, fill, chosen, names, said):
    model = build(folder, SLIDING=False, FILL=fill, TRAIN_CLASSES=chosen).train()
    own = model.words(words(*MANY[:names]))
    model.start_training(own)
    assert any("the row stays as it is" in one.message for one in caplog.records) == said
    model.with_words(own)([training_picture()])["loss_sem_seg"].backward()
    if fill:  # and so it is
        grad = model.aggregator.classes[0].filling.grad
        assert (grad is None) == said


def test_pixels_without_a_label_are_negative_as_in_the_original_or_left_out(folder):
    entry = {"image": picture(64, 64), "sem_seg": torch.full((64, 64), 255)}
    entry["sem_seg"][:32, :] = 1
    whole = {"image": entry["image"], "sem_seg": entry["sem_seg"].clone()}
    whole["sem_seg"][32:] = 0
    found = {}
    for void in ("negative", "left_out"):
        model = build(folder, SLIDING=False, VOID=void).train()
        told = model.with_words(model.words(words("cat", "sofa", "quark")))
        with torch.no_grad():
            found[void] = [told([one])["loss_sem_seg"] for one in (entry, whole)]
    assert found["negative"][1] == found["left_out"][1] and found["negative"][0] != found["left_out"][0]


def test_an_image_is_compared_with_what_it_shows_and_what_is_near_to_it(folder):
    model = build(folder, SLIDING=False, TRAIN_CLASSES=4).train()
    own = model.words(words(*MANY))
    asked = []
    choose = model.criterion.choose
    model.criterion.choose = lambda *given: (asked.append(choose(*given)), asked[-1])[1]
    assert model.with_words(own)([training_picture(0)])["loss_sem_seg"].isfinite()
    ((classes,),) = asked
    assert len(classes) == 4 and {0, 1} <= set(classes.tolist())


@pytest.mark.parametrize("count", [0, 2])
def test_labels_that_are_not_among_the_words_are_refused(folder, count):
    model = build(folder, SLIDING=False, TRAIN_CLASSES=count).train()
    entry = {"image": picture(64, 64), "sem_seg": torch.full((64, 64), 7)}
    with pytest.raises(ConfigError, match="target classes range from 7 to 7; expected 0 to 2, the vocabulary's"):
        model.with_words(model.words(words("cat", "sofa", "quark")))([entry])


@pytest.mark.parametrize("layout", ["official", "ours", "trained"])
def test_checkpoints(folder, tmp_path, layout):
    from ovseg.checkpoint.trained import trained_state

    model = models.stirred(build(folder), 5)
    with torch.no_grad():
        model.get_parameter("clip.model.transformer.resblocks.0.attn.v_proj_weight").mul_(1.2)
    model.train().eval()
    state = model.state_dict() if layout == "ours" else trained_state(model)
    if layout == "official":
        state = {official_name(key): value for key, value in model.state_dict().items()}
        assert "sem_seg_head.predictor.clip_model.visual.transformer.resblocks.0.attn.q_proj_weight" in state
        state["sem_seg_head.predictor.transformer.layers.0.swin_block.block_2.attn_mask"] = torch.zeros(4, 16, 16)
    torch.save({"model": state, "iteration": 7}, tmp_path / "model_base.pth")
    loaded = build(folder, tmp_path / "model_base.pth", seed=9)
    assert loaded.weights_hash == model.weights_hash != build(folder).weights_hash
    asked = model.words(words("cat", "quark"))
    assert_same(*(ask(one, [picture(64, 64)], asked)[0] for one in (model, loaded)))
    if layout == "official":
        state.pop("upsample1.bias")
        torch.save({"model": state}, tmp_path / "model_base.pth")
        with pytest.raises(WeightsError, match=r"model_base\.pth does not fit CAT-Seg: it misses upsample1\.bias"):
            build(folder, tmp_path / "model_base.pth")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"RESOLUTION": 68}, "resolution is 68 with patches of 8 pixels"),
        ({"TAPS": [1, 3]}, r"taps are \[1, 3\]; expected two blocks from 0 to 2"),
        ({"SWIN_WINDOW": 3}, "windows of 3 places do not fill a grid of 8 x 8"),
        ({"RESOLUTION": 0}, "resolution is 0"),
        ({"HIDDEN": 30}, "heads is 4, and the maps have 30 channels there; expected a multiple"),
        ({"HIDDEN": 0}, "hidden is 0; expected at least 1"),
        ({"HEADS": 0}, "heads is 0; expected at least 1"),
        ({"LAYERS": 0}, "layers is 0; expected at least 1"),
        ({"PROMPTS": 3}, "prompts is 3; expected 1"),
        ({"SWIN_WINDOW": 0}, "swin_window is 0; expected at least 1"),
        ({"GUIDANCE": 0}, "guidance is 0; expected at least 1"),
        ({"TEXT_GUIDANCE": -1}, "text_guidance is -1; expected at least 0"),
        ({"FILL": -5}, "fill is -5; expected at least 0"),
        ({"MOST": -1}, "most is -1; expected at least 0"),
        ({"TRAIN_POOLING": [0, 0]}, "train_pooling is 0; expected at least 1"),
        ({"POOLING": [2]}, r"pooling is \[2\]; expected 2 numbers"),
        ({"TRAIN_POOLING": [2, 9]}, r"train_pooling is \[2, 9\] on a grid of 8 x 8; expected no more"),
        ({"SIZE_DIVISIBILITY": 0}, "size_divisibility is 0; expected at least 1"),
        ({"DECODER_DIMS": [32, 24]}, "decoder_dims has 24; expected multiples of 16"),
        ({"DECODER_DIMS": [32, 8]}, "decoder_dims has 8; expected multiples of 16"),
        ({"DECODER_GUIDANCE": [24, 4]}, "decoder_guidance has 24 where maps have 24 channels; expected 1 to 23"),
        ({"DECODER_GUIDANCE": [8, 0]}, "decoder_guidance is 0; expected at least 1"),
        ({"UP_CHANNELS": [24, 0]}, "up_channels is 0; expected at least 1"),
        ({"SLIDING_WINDOW": 50}, "windows of 50 pixels with an overlap of 0.333 do not fill 80 pixels"),
        ({"DECODER_DIMS": [32]}, r"decoder_dims is \[32\]; expected 2 numbers"),
        ({"NAMES": "best"}, "names is 'best'"),
        ({"TUNED": "all"}, "tuned is 'all'"),
        ({"ATTENTION": "sparse"}, "attention is 'sparse'"),
        ({"protocol": {"WINDOW": 32}}, r"MODEL\.PROTOCOL\.WINDOW is 32, but CAT-Seg has of the protocol only"),
        ({"text": {"AUTOCLIP": 0.5, "TEMPLATES": "vild14"}}, "AutoCLIP weighs texts for patches, but CATSeg has maps"),
    ],
)
def test_configs_that_do_not_fit(folder, changes, message):
    with pytest.raises(ConfigError, match=message):
        build(folder, **changes)


def test_towers_that_do_not_fit(tiny_convnext):
    with pytest.raises(ConfigError, match="CAT-Seg needs tokens of patches"):
        build(tiny_convnext)


def test_dense_features_of_a_method(folder):
    changes = {"NAME": "ClearCLIP", "OPTIONS": {"MODEL_TYPE": "MaskCLIP", "LAST_N_LAYERS": 2}}
    model = models.stirred(build(folder, TAPS=[0, 1], recalibration=changes), 5)
    own = model.words(words(*NAMES))
    found, other = (ask(one, [picture(64, 64)], own)[0] for one in (model, models.stirred(build(folder), 5)))
    assert not torch.equal(found.scores, other.scores) and model.settings["recalibration"] == "ClearCLIP"
    with pytest.raises(ConfigError, match=r"taps are \[1, 2\]; expected two blocks from 0 to 1"):
        build(folder, recalibration=changes)
