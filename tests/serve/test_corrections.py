from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ovseg.contract import Words
from ovseg.errors import InputError, VocabularyError
from ovseg.result.objects import Panoptic, PanopticSegment
from ovseg.result.segmentation import Segmentation
from ovseg.serve.corrections import Corrected, region_at
from ovseg.vocabulary import Background, Vocabulary

LABELS = np.array([[0, 0, 1, 1], [0, 1, 1, 0], [2, 2, -1, 0]], np.int32)


def answer(classes="cat|kitten, sofa, lamp", panoptic=None, labels=LABELS):
    vocabulary = Vocabulary.parse(classes)
    count = len(vocabulary.queries)
    words = Words(
        embeddings=torch.zeros(count, 4),
        query_to_class=torch.tensor(vocabulary.query_to_class),
        vocabulary=vocabulary,
        background=Background(),
        templates="none",
    )
    scores = np.full(labels.shape, 0.5, np.float32)
    image = np.zeros((*labels.shape, 3), np.uint8)
    result = Segmentation.from_labels(labels, scores, vocabulary, image, {"notes": ["mine"]}, panoptic)
    return Corrected("model", (classes, ""), words, result)


def test_a_region_gets_another_name_and_no_other_pixel_changes():
    before = answer()
    after = before.correct(0, 0, "sofa")
    wanted = LABELS.copy()
    wanted[[0, 0, 1], [0, 1, 0]] = 1
    np.testing.assert_array_equal(after.current.labels, wanted)
    changed = wanted != LABELS
    assert (after.current.scores[changed] == 1).all() and (after.current.scores[~changed] == 0.5).all()
    np.testing.assert_array_equal(before.current.labels, LABELS)  # an answer is never changed
    assert after.current.meta["corrections"] == [{"row": 0, "column": 0, "name": "sofa"}]
    assert after.current.meta["notes"] == ["mine", "1 region was given another name by hand, with score 1"]


def test_synonyms_no_class_and_new_names():
    assert answer().correct(2, 0, " KITTEN ").current.labels[2, 0] == 0
    after = answer().correct(0, 2, "").correct(0, 0, "grey wall")
    assert after.current.labels[0, 2] == -1
    assert after.current.classes.names == ["cat", "sofa", "lamp", "grey wall"] and after.current.labels[0, 0] == 3
    assert [entry.color for entry in after.current.classes][:3] == [entry.color for entry in answer().result.classes]


def test_a_new_class_gets_the_next_id_of_a_list_with_ids():
    after = answer("7: cat, 3: sofa, 12: lamp").correct(0, 0, "wall")
    assert after.current.classes.ids == [7, 3, 12, 13]
    assert [one["id"] for one in after.current.to_coco()["categories"]] == [7, 3, 12, 13]


def test_undo_goes_back_step_by_step():
    first = answer().correct(0, 0, "sofa")
    second = first.correct(2, 0, "wall")
    np.testing.assert_array_equal(second.undo().current.labels, first.current.labels)
    assert second.undo().current.classes.names == ["cat", "sofa", "lamp"]
    np.testing.assert_array_equal(second.undo().undo().current.labels, LABELS)
    with pytest.raises(InputError, match="no correction to take back"):
        answer().undo()


def test_what_cannot_be_corrected_is_said():
    with pytest.raises(InputError, match="row 3, column 0; expected rows below 3, columns below 4"):
        answer().correct(3, 0, "sofa")
    with pytest.raises(InputError, match="'kitten' already"):
        answer().correct(0, 0, "kitten")
    with pytest.raises(VocabularyError):
        answer().correct(0, 0, "two\nlines")


def test_segments_of_the_model_are_left_out_of_what_was_corrected():
    panoptic = Panoptic(np.where(LABELS >= 0, 1, 0).astype(np.int32), (PanopticSegment(1, 0, True, 0.9),))
    after = answer(panoptic=panoptic).correct(0, 0, "sofa")
    assert after.current.panoptic is None and any("segments" in note for note in after.current.meta["notes"])
    assert after.undo().current.panoptic is panoptic


@given(st.lists(st.lists(st.integers(0, 2), min_size=5, max_size=5), min_size=2, max_size=6), st.data())
def test_a_region_is_what_one_can_walk_to(rows, data):
    labels = np.array(rows, np.int32)
    row, column = data.draw(st.integers(0, len(rows) - 1)), data.draw(st.integers(0, 4))
    reached, left = {(row, column)}, [(row, column)]
    while left:
        y, x = left.pop()
        for near in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            inside = 0 <= near[0] < len(rows) and 0 <= near[1] < 5
            if inside and near not in reached and labels[near] == labels[y, x]:
                reached.add(near)
                left.append(near)
    assert {tuple(place) for place in np.argwhere(region_at(labels, row, column)).tolist()} == reached
