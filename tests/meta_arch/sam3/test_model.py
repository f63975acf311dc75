"""SAM 3 as a model: phrases, the geometry token, windows, objects, the prefilter, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ovseg.contract import CLASS_SCORES, INSTANCES, PANOPTIC
from ovseg.errors import ConfigError
from ovseg.meta_arch.sam3.model import Budget
from ovseg.meta_arch.sam3.network import SeenImage, doubled
from ovseg.meta_arch.sam3.texts import pack, shortened, unpack
from ovseg.vocabulary import Vocabulary
from tests.meta_arch.models import build, picture, words
from tests.meta_arch.tester import NAMES, ask, assert_near, pictures

SCORES = frozenset({CLASS_SCORES})


def test_a_convolution_of_doubled_maps_is_one_of_the_maps():
    generator = torch.Generator().manual_seed(0)
    maps, weight = torch.randn(2, 5, 4, 7, generator=generator), torch.randn(3, 5, 3, 3, generator=generator)
    twice = maps.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(doubled(maps, weight), torch.conv2d(twice, weight, padding=1), atol=1e-4, rtol=0)


def test_rows_hold_tokens_and_which_of_them_count():
    tokens, mask = torch.randn(3, 6, 4), torch.arange(6) < torch.tensor([[2], [4], [1]])
    rows = shortened(pack(tokens, mask), 4)
    found, counted = unpack(rows, 4)
    assert rows.shape == (3, 4 * 5) and torch.equal(counted, mask[:, :4])
    assert torch.equal(found, tokens[:, :4] * mask[:, :4, None])


def test_a_phrase_is_answered_as_transformers_answers_it_alone(sam3):
    """With its dummy box, which brings the geometry token; and without, as it is by itself."""
    network, asked = sam3.clip, sam3.words(words("cat", "a very large sofa"), templates="none")
    pixels = (picture(56, 56)[None].float() / 255 - 0.5) / 0.5
    tokens, mask = unpack(asked.embeddings, network.channels)
    with torch.inference_mode():
        seen = SeenImage(*(one[0] for one in network.see(pixels)))
        theirs = network.model.get_vision_features(pixel_values=pixels)
        for own, boxes in ((seen, {}), (seen._replace(geometry=None), None)):
            found = network.ask(own, tokens, mask)
            for row in range(2):
                dummy = {"input_boxes": torch.zeros(1, 1, 4), "input_boxes_labels": torch.full((1, 1), -10)}
                ids = sam3.reader.tokens(["cat", "a very large sofa"])[row : row + 1]
                real = torch.arange(ids.shape[1]) <= ids.argmax(1, keepdim=True)
                alone = network.model(
                    vision_embeds=theirs, input_ids=ids, attention_mask=real, **(dummy if boxes is not None else {})
                )
                torch.testing.assert_close(found.scores[row], alone.pred_logits[0], atol=1e-4, rtol=0)
                torch.testing.assert_close(network.semantic(found)[row], alone.semantic_seg[0, 0], atol=1e-4, rtol=0)
                every = torch.arange(found.scores.shape[1])
                torch.testing.assert_close(network.masks(found, row, every), alone.pred_masks[0], atol=1e-4, rtol=0)
                torch.testing.assert_close(network.boxes(found)[row], alone.pred_boxes[0], atol=1e-4, rtol=0)


def test_the_geometry_token_is_an_option_that_results_record(sam3, folders):
    plain = build("sam3", folders["sam3"], GEOMETRY_TOKEN=False)
    plain.load_state_dict(sam3.state_dict())
    asked = sam3.words(words(*NAMES))
    with_token, without = (ask(one, pictures()[:1], asked, SCORES)[0].class_scores for one in (sam3, plain))
    assert (with_token - without).abs().max() > 1e-3
    assert sam3.settings["options"]["geometry_token"] and not plain.settings["options"]["geometry_token"]


def test_memory_changes_how_many_are_asked_at_a_time_and_nothing_else(sam3):
    asked, wanted = sam3.words(words(*NAMES)), ask(sam3, pictures()[:1], sam3.words(words(*NAMES)), sam3.gives)[0]
    whole = sam3.budget
    try:
        sam3.budget = Budget(max_memory=1e-6)
        assert whole.at_a_time(sam3.clip) > 100 and sam3.budget.at_a_time(sam3.clip) == 1
        found = ask(sam3, pictures()[:1], asked, sam3.gives)[0]
    finally:
        sam3.budget = whole
    assert_near(found, wanted)
    assert [own.class_id for own in found.instances] == [own.class_id for own in wanted.instances]
    with pytest.raises(ConfigError, match="max_memory is 0; expected a positive number of GB"):
        Budget(max_memory=0)


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
