"""SAM 3 as a model: phrases, the geometry token, windows, objects, the prefilter, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ovseg.contract import CLASS_SCORES, INSTANCES, PANOPTIC
from ovseg.errors import ConfigError, UnknownNameError
from ovseg.meta_arch.sam3 import SAM3
from ovseg.meta_arch.sam3.texts import pack, shortened, unpack
from ovseg.system.device import CPU
from ovseg.vocabulary import Vocabulary
from tests.meta_arch.models import build, picture, words
from tests.meta_arch.tester import NAMES, ask, assert_near, pictures

SCORES = frozenset({CLASS_SCORES})


def test_rows_hold_tokens_and_which_of_them_count():
    tokens, mask = torch.randn(3, 6, 4), torch.arange(6) < torch.tensor([[2], [4], [1]])
    rows = shortened(pack(tokens, mask), 4)
    found, counted = unpack(rows, 4)
    assert rows.shape == (3, 4 * 5) and torch.equal(counted, mask[:, :4])
    assert torch.equal(found, tokens[:, :4] * mask[:, :4, None])


def test_the_geometry_token_is_an_option_that_results_record(sam3, folders):
    plain = build("sam3", folders["sam3"], GEOMETRY_TOKEN=False)
    plain.load_state_dict(sam3.state_dict())
    asked = sam3.words(words(*NAMES))
    with_token, without = (ask(one, pictures()[:1], asked, SCORES)[0].class_scores for one in (sam3, plain))
    assert (with_token - without).abs().max() > 1e-3
    assert sam3.settings["options"]["geometry_token"] and not plain.settings["options"]["geometry_token"]


def test_models_on_one_network_do_not_change_each_other(sam3):
    """The geometry token is each model's own."""
    parts = (sam3.fusion, sam3.thresholds, sam3.object_rule, sam3.size_rule, sam3.protocol, "none", "none")
    plain, asked = SAM3(sam3.clip, *parts, geometry_token=False).eval(), sam3.words(words(*NAMES))
    first, without, again = (ask(one, pictures()[:1], asked, SCORES)[0] for one in (sam3, plain, sam3))
    assert torch.equal(first.class_scores, again.class_scores)
    assert (first.class_scores - without.class_scores).abs().max() > 1e-3


@pytest.mark.parametrize("size", [(375, 500), (48, 400), (56, 56)])
def test_a_photograph_is_squeezed_as_the_authors_do(sam3, monkeypatch, size):
    """From the file's own pixels, bilinear with antialiasing in whole numbers; no size rule comes before."""
    seen, see = [], sam3.clip.see
    monkeypatch.setattr(sam3.clip, "see", lambda pixels: seen.append(pixels) or see(pixels))
    photo = picture(*size).permute(1, 2, 0).contiguous().numpy()
    sam3.encode([sam3.size_rule(photo)])
    whole = torch.from_numpy(photo).permute(2, 0, 1)[None]
    theirs = torch.nn.functional.interpolate(whole, (56, 56), mode="bilinear", antialias=True)
    assert torch.equal(seen[0], (theirs.float() / 255 - 0.5) / 0.5)


def test_classes_have_their_thresholds_by_name(folders, sam3):
    every = ["violin", "traffic light", *(name.partition("|")[0] for name in NAMES[:6])]
    won = ask(sam3, pictures()[:1], sam3.words(words(*every)))[0].labels.flatten().bincount()
    pair = [every[own] for own in won.topk(2).indices.tolist()]
    free = ask(sam3, pictures()[:1], sam3.words(words(*pair)))[0].labels
    assert (free == 0).any() and (free == 1).any()
    own = build("sam3", folders["sam3"], CLASS_THRESHOLDS={pair[1]: 1.0})
    own.load_state_dict(sam3.state_dict())
    for names in (pair, pair[::-1]):
        labels = ask(own, pictures()[:1], own.words(words(*names)))[0].labels
        assert torch.equal(labels == names.index(pair[0]), free == 0)
        assert torch.equal(labels == -1, free == 1)
    assert own.settings["options"]["class_thresholds"] == {pair[1]: 1.0}
    with pytest.raises(UnknownNameError, match=f"unknown class of CLASS_THRESHOLDS '{pair[1]}'"):
        own.words(words(pair[0], "house"))


def test_scores_of_a_phrase_do_not_depend_on_the_others(sam3):
    many, few = sam3.words(words(*NAMES)), sam3.words(words("sofa", "river"))
    (all_,), (two,) = ask(sam3, pictures()[:1], many, SCORES), ask(sam3, pictures()[:1], few, SCORES)
    torch.testing.assert_close(all_.class_scores[[1, 4]], two.class_scores, atol=1e-5, rtol=0)


def test_a_single_class_needs_no_contrast_where_there_is_a_threshold(sam3):
    assert len(sam3.words(words("cat"), "threshold:0.5").texts) == 1
    assert len(sam3.words(words("cat")).texts) > 1
    assert sam3.words(words("cat"), "sky, wall").query_to_class.tolist() == [0, -1, -1]


def test_windows_are_looked_at_one_by_one_and_give_no_objects(folders, sam3):
    protocol = {"ASPECT": "keep", "LONG_SIDE": 128, "WINDOW": 56, "STRIDE": 28}
    sliding = build("sam3", folders["sam3"], protocol=protocol)
    sliding.load_state_dict(sam3.state_dict())
    assert sliding.gives == sam3.gives - {PANOPTIC, INSTANCES}
    image, asked = picture(64, 96), sliding.words(words(*NAMES))
    encoded = sliding.encode([image])
    assert len(encoded.images[0].windows) == 2 * 3
    found = sliding.answer(encoded, 0, (64, 96), asked, SCORES)
    corner = ask(sam3, [image[:, :56, :56]], sam3.words(words(*NAMES)), SCORES)[0].class_scores
    torch.testing.assert_close(found.class_scores[:, :8, :28], corner[:, :8, :28], atol=1e-5, rtol=0)
    assert_near(ask(sliding, [image, image], asked, SCORES)[1], found)


def test_things_are_counted_one_by_one_and_stuff_is_one_segment(sam3):
    vocabulary = Vocabulary.parse([{"name": "cat"}, {"name": "sky", "is_thing": False}, {"name": "sofa"}])
    answer = ask(sam3, pictures()[:1], sam3.words(vocabulary), sam3.gives)[0]
    assert {own.class_id for own in answer.instances} <= {0, 2}
    assert sum(segment.class_id == 1 for segment in answer.panoptic.segments) <= 1
    assert all(segment.is_thing == (segment.class_id != 1) for segment in answer.panoptic.segments)
    scores = [own.score for own in answer.instances]
    assert scores == sorted(scores, reverse=True) and min(scores) > sam3.fusion.confidence


def test_an_object_that_two_names_find_is_one(sam3):
    """A name that finds what another name of its class has found adds nothing; as a class of its own it does."""
    vocabulary = Vocabulary.parse([["cat", "kitten"], "sofa"])
    apart = sam3.words(vocabulary)
    rows = apart.embeddings.clone()
    rows[1] = rows[0]
    one, same = (
        ask(sam3, pictures()[:1], asked, frozenset({INSTANCES}))[0].instances
        for asked in (sam3.words(words("cat", "sofa")), replace(apart, embeddings=rows))
    )
    assert one and sum(own.class_id == 0 for own in same) <= sum(own.class_id == 0 for own in one)


def test_the_prefilter_asks_for_fewer_words_and_says_so(folders, sam3):
    filtered = build("sam3", folders["sam3"], PREFILTER=0.2, clip=folders["vit"])
    filtered.clip.load_state_dict(sam3.clip.state_dict())
    filtered.clip.refresh()
    asked = filtered.words(words(*NAMES, "cat of straw"))
    encoded = filtered.encode(pictures()[:1])
    rows, notes = filtered.asked(encoded.images[0], asked)
    assert 0 < len(rows) < len(asked.texts) and "were not asked for, of which a CLIP saw nothing" in notes[0]
    answer = filtered.answer(encoded, 0, (50, 60), asked, SCORES)
    every = ask(sam3, pictures()[:1], sam3.words(words(*NAMES, "cat of straw")), SCORES, (50, 60))[0]
    kept = asked.query_to_class[rows].unique()
    torch.testing.assert_close(answer.class_scores[kept], every.class_scores[kept], atol=1e-5, rtol=0)
    assert answer.notes == notes and set(answer.labels.unique().tolist()) <= set(kept.tolist())
    rest = [own for own in range(len(NAMES) + 1) if own not in kept.tolist()]
    assert not answer.class_scores[rest].any()
    assert filtered.settings["prefilter"]["method"] == "CLIP" and "prefilter" not in sam3.settings
    assert filtered.settings["prefilter"]["least"] == filtered.settings["options"]["prefilter"] == 0.2
    unknown = replace(asked, screen=None)
    answer = filtered.answer(encoded, 0, (50, 60), unknown, SCORES)
    assert answer.notes == (f"the prefilter does not know these words, so all {len(asked.texts)} were asked for",)
    assert torch.equal(answer.class_scores, every.class_scores)


def test_both_text_towers_rest_where_images_need_no_room(folders, monkeypatch):
    filtered, moved = build("sam3", folders["sam3"], PREFILTER=0.2, clip=folders["vit"]).place(CPU, torch.float32), []
    for tower in (filtered.clip, filtered.screen.clip):
        move = tower.move_text
        monkeypatch.setattr(
            tower, "move_text", lambda device, tower=tower, move=move: (moved.append(tower), move(device))
        )
    filtered.words(words("an unheard-of word", "another one"))
    assert {id(tower) for tower in moved[-2:]} == {id(filtered.clip), id(filtered.screen.clip)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": {"AUTOCLIP": 0.85}}, "MODEL.TEXT.AUTOCLIP is 0.85, but SAM 3 reads each phrase as it is"),
        ({"text": {"LONG_TEXT": True}}, "MODEL.TEXT.LONG_TEXT is True"),
        ({"protocol": {"PAMR_STEPS": 2}}, "MODEL.PROTOCOL.PAMR_STEPS is 2, but SAM3 reads of the protocol only"),
        ({"PREFILTER": 1.0}, "prefilter is 1.0; expected a share from 0"),
        ({"OBJECTS": 0}, "objects is 0"),
        ({"FUSON": "x"}, "unknown option 'fuson' of MODEL.SAM3; did you mean fusion"),
    ],
)
def test_what_phrases_have_no_place_for_is_refused(folders, changes, message):
    with pytest.raises(ConfigError, match=message):
        build("sam3", folders["sam3"], **changes)


def test_several_sentences_are_refused(sam3):
    with pytest.raises(
        ConfigError, match="templates is 'vild14' with 14 sentences; SAM 3 is asked one phrase at a time"
    ):
        sam3.words(words("cat", "dog"), templates="vild14")


def test_long_phrases_are_cut_and_it_is_said(sam3):
    long = "a " * 40 + "cat"
    notes = sam3.words(words(long, "dog")).notes
    assert any("reads 32 tokens" in note for note in notes)
