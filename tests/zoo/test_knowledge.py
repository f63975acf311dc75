"""What is known of weights by their content: the one line on drawings, aliases, ranks, licences."""

from __future__ import annotations

import shutil
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

import ovseg
from ovseg.clip import ViTClip
from ovseg.config import config_root
from ovseg.errors import ConfigError
from ovseg.zoo import auto, list_models, load_spec, resolve
from ovseg.zoo.aliases import AUTO, FALLBACK, aliases, recommended, stands_for
from ovseg.zoo.auto import require_named
from ovseg.zoo.card import PACKAGE

CARDS = {card.name: card for card in list_models()}
KNOWS = "knows drawings alone (601 emoji-like things and 14 grounds of Scenes); for photographs take"


def test_the_hash_on_the_card_is_that_of_the_embedded_clip():
    assert ViTClip.from_folder("mini").weights_hash == CARDS["mini"].clip_hash


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("mini", f"mini {KNOWS} {recommended()}"),
        ("mini-clearclip", f"mini-clearclip runs on the CLIP of mini, which {KNOWS} {recommended()}"),
        ("sclip/mini", f"sclip/mini runs on the CLIP of mini, which {KNOWS} sclip/ViT-B-16/openai"),
    ],
)
def test_one_line_says_what_the_embedded_clip_knows(name, line):
    assert load_spec(resolve(name), "cpu").words("cat, dog").notes == (line,)


def test_weights_are_known_by_content(tmp_path, tiny_clip):
    shutil.copytree(PACKAGE / "assets/mini", tmp_path / "own")
    (note,) = load_spec(resolve(tmp_path / "own"), "cpu").model.notes
    assert "runs on the CLIP of mini" in note
    shutil.copytree(tiny_clip, tmp_path / "mini")
    assert load_spec(resolve(tmp_path / "mini"), "cpu").model.notes == ()


def test_the_api_warns_once_a_process(monkeypatch):
    monkeypatch.setattr(ovseg.zoo, "_TOLD", set())
    with pytest.warns(UserWarning, match="mini knows drawings alone"):
        ovseg.load("mini", "cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        result = ovseg.load("mini", "cpu")(np.zeros((32, 32, 3), np.uint8), "cat, dog")
    assert result.meta["notes"][0].startswith("mini knows drawings")


def test_mini_is_calibrated_and_its_labels_stay():
    pixels, words = config_root().parent / "examples/beach.jpg", "boat, sea, sand"
    segmenter = load_spec(resolve("mini"), "cpu")
    fitted = segmenter.model.calibration
    assert fitted is not None and fitted.data.startswith("scenes/train")
    found = segmenter(pixels, words)
    assert found.meta["settings"]["calibration"] == fitted.hash
    own = load_spec(resolve("mini"), "cpu")
    own.model.calibration = None
    plain = own(pixels, words)
    assert (plain.scores > 0.995).mean() > 0.5 and (found.scores > 0.995).mean() < 0.1
    np.testing.assert_array_equal(found.labels, plain.labels)
    again, before = (one(pixels, words, background="threshold:0.9") for one in (segmenter, own))
    np.testing.assert_array_equal(again.labels, before.labels)
    assert "threshold:0.9 is compared with the model's own scores, before calibration" in again.meta["notes"]


def test_a_calibration_goes_with_its_weights():
    model = load_spec(resolve("mini"), "cpu").model
    state = {key: value + 1 if key == "void_row" else value for key, value in model.state_dict().items()}
    fitted = model.calibration
    model.load_state_dict(state)
    assert model.calibration is None and "calibration" not in model.settings
    with pytest.raises(ConfigError, match="the calibration is that of weights"):
        model.calibrate(fitted)


def test_aliases_are_what_they_say():
    general = [card for card in CARDS.values() if card.weights == "released"]
    by_name = [card for card in general if card.hub and card.ade150]
    assert aliases()["best"].model == max(by_name, key=lambda one: one.ade150).name
    assert aliases()["fast"].model == min(by_name, key=lambda one: one.tensors_mb).name
    more = [card for card in general if card.ade150 > CARDS[aliases()["best"].model].ade150]
    assert max(more, key=lambda one: one.ade150).name in aliases()["best"].means
    panoptic = CARDS[aliases()["panoptic"].model]
    assert panoptic.task == "panoptic" and not panoptic.unclear
    assert CARDS[recommended()].commercial and CARDS[FALLBACK].weights == "embedded"
    assert not set(aliases()) & (set(CARDS) - {FALLBACK}) and all(alias.model in CARDS for alias in aliases().values())
    assert [stands_for(name) for name in ("best", "mini", AUTO, "x")] == ["san-vit-large-14", "mini", AUTO, "x"]
    spec = resolve("best")
    assert (spec.name, spec.asked, spec.why) == ("san-vit-large-14", "best", aliases()["best"].means)
    assert resolve("mini").why == ""


def test_ranks_and_tasks_are_those_of_what_cards_report_and_configs_say():
    for card in CARDS.values():
        if card.weights != "released":
            assert not card.ade150 and not card.tensors_mb
            continue
        assert card.tensors_mb > 0
        assert not card.ade150 or str(card.ade150) in card.reported
        model = resolve(card.name).config.MODEL
        section = model.get(model.META_ARCHITECTURE, {})
        assert (card.task == "panoptic") == bool(section.get("PANOPTIC", model.META_ARCHITECTURE == "SAM3")), card.name


def test_auto_takes_the_best_that_is_on_the_disk(monkeypatch):
    here = {"fcclip-rn50", "san-vit-large-14", "maftp-l-pano"}
    monkeypatch.setattr(auto, "on_disk", lambda card: card.name in here or None)
    assert auto.best_installed().name == "san-vit-large-14"
    here -= {"fcclip-rn50", "san-vit-large-14"}  # what reports no such number is still one for photographs
    assert auto.best_installed().name == "maftp-l-pano"
    here.clear()
    assert auto.best_installed() is None and auto.best_name() == recommended()


@pytest.mark.parametrize(
    ("code", "weights", "allowed", "unclear"),
    [
        ("Apache-2.0", "MIT", True, ()),
        ("Apache-2.0", "CC-BY-NC-4.0", False, ()),
        ("Apache-2.0", "that of the chosen CLIP", False, ("weights",)),
        ("Apache-2.0", "MIT, that of the authors' repository; none is stated", False, ("weights",)),
        ("GPL-ish", "", False, ("code", "weights")),
    ],
)
def test_commercial_use_follows_from_both_licences_and_what_is_not_known_is_no(code, weights, allowed, unclear):
    card = replace(CARDS["mini"], code_licence=code, weights_licence=weights)
    assert (card.commercial, card.unclear) == (allowed, unclear)


def test_what_is_to_be_the_same_elsewhere_needs_a_name():
    require_named("mini", "a labelling job")
    with pytest.raises(ConfigError, match="a labelling job needs a name"):
        require_named(AUTO, "a labelling job")


def test_own_scores_are_cut_as_before_where_nothing_is_known(tiny_clip, pixels):
    model = load_spec(resolve(tiny_clip), "cpu")
    assert model.model.calibration is None
    assert model(pixels, "cat, dog").scores.max() <= 1 and torch.is_tensor(model.model.clip.position_table)
