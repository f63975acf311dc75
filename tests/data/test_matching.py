"""Classes of data and words of a user meet by name and synonym; the order of either changes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ovseg.data.dataset import PANOPTIC, SEMANTIC, Dataset, identity_lookup
from ovseg.data.matching import DROPPED, match_classes
from ovseg.data.registration import load_datasets, read_dataset
from ovseg.errors import InputError
from ovseg.vocabulary import Vocabulary

ANIMALS = ("cat|kitten", "dog", "sky", "grass|lawn")


def match(own, words, kinds_known=False):
    return match_classes(Vocabulary.parse(list(own)), Vocabulary.parse(list(words)), "own", kinds_known)


def label_set(folder: Path, labels: np.ndarray, classes=ANIMALS, kind=SEMANTIC) -> Dataset:
    folder.mkdir(exist_ok=True)
    Image.fromarray(labels.astype(np.uint8)).save(folder / "a.png")
    record = {"file_name": str(folder / "a.jpg"), "image_id": "a", "sem_seg_file_name": str(folder / "a.png")}
    count = len(classes)
    remap = np.arange(count, dtype=np.int32)
    return Dataset("own", Vocabulary.parse(list(classes)), kind, [record], identity_lookup(count), remap)


@given(st.permutations(range(6)), st.permutations(range(6)), st.integers(0, 2**32 - 1))
def test_the_order_of_the_words_permutes_ids_and_changes_no_pixel(order, file_order, seed):
    names = [f"word {i}|other {i}" for i in range(6)]
    found = match([names[i] for i in file_order], [names[i] for i in order])
    assert found.notes == ()
    for place, to in enumerate(found.places):
        assert order[to] == file_order[place]


@given(
    st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=3, unique=True), min_size=1, max_size=4),
    st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=3, unique=True), min_size=1, max_size=4),
)
def test_every_match_shares_a_name_and_nothing_vanishes_unsaid(own, words):
    if any(len({n for c in side for n in c}) != sum(map(len, side)) for side in (own, words)):
        return  # no vocabulary: a name stands twice
    try:
        found = match(own, words)
    except InputError as error:
        assert "none of them" in str(error) or "equally well" in str(error)
        return
    for entry, place in zip(own, found.places, strict=True):
        shared = [word for word in words if set(word) & set(entry)]
        assert set(entry) & set(words[place]) if place >= 0 else not shared
    said = " ".join(found.notes)
    assert ("dropped" in said) == bool((found.places < 0).any())
    assert ("merged" in said) == (len(set(found.places[found.places >= 0])) < int((found.places >= 0).sum()))
    assert ("no labels" in said) == (not set(range(len(words))) <= set(found.places.tolist()))


@pytest.mark.parametrize(
    ("own", "words", "places", "notes"),
    [
        (ANIMALS, ("grass", "sky", "dog", "cat"), [3, 2, 1, 0], ()),
        (("Cat", "DOG"), ("dog", "cat"), [1, 0], ()),
        (("cat|kitten", "dog"), ("kitten", "dog"), [0, 1], ("1 class matched by a synonym: cat as kitten",)),
        (("cat", "dog"), ("dog|hound", "feline|cat"), [1, 0], ("1 class matched by a synonym: cat as feline",)),
        (
            ("car", "truck", "sky"),
            ("vehicle|car|truck", "sky"),
            [0, 0, 1],
            (
                "2 classes matched by a synonym: car as vehicle, truck as vehicle",
                "2 classes of the data (car, truck) are merged into 'vehicle'",
            ),
        ),
        # A display name comes before a synonym, so that the other word is one without labels.
        (("sofa|couch",), ("couch", "sofa"), [1], ("1 word (couch) has no labels and can only be wrong",)),
        (
            ("a", "b", "c"),
            ("c", "x", "y"),
            [DROPPED, DROPPED, 0],
            (
                "dropped 2 of 3 classes of the data (a, b): their pixels are void",
                "2 words (x, y) have no labels and can only be wrong",
            ),
        ),
        (("traffic_light", "sky"), ("Traffic Light", "sky"), [0, 1], ()),
        (
            ("traffic-light", "sky"),
            ("traffic light", "sky"),
            [DROPPED, 1],
            (
                "dropped 1 of 2 classes of the data (traffic-light): their pixels are void",
                "1 word (traffic light) has no labels and can only be wrong",
                "names that differ by signs alone do not match; if they mean the same: --rename "
                "'traffic-light=traffic light'",
            ),
        ),
    ],
)
def test_what_matches_and_what_is_said(own, words, places, notes):
    found = match(own, words)
    assert found.places.tolist() == places and found.notes == notes


def test_long_lists_are_counted():
    found = match([f"w{i}" for i in range(40)], ["w0"])
    assert found.notes[0].endswith("w9, w10, and 29 more): their pixels are void") and len(found.notes) == 1


def test_equal_length_is_no_renaming():
    with pytest.raises(InputError, match=r"2 classes .cat, dog., none of them in the 2 .* --rename 'cat=sea, ...'"):
        match(("cat", "dog"), ("sea", "sun"))


def test_a_class_that_fits_two_words_is_refused():
    with pytest.raises(InputError, match=r"'sofa\|couch\|settee' of 'own' fits 'couch' and 'settee' .* 'sofa=couch'"):
        match(("sofa|couch|settee",), ("couch", "settee"))


def test_pixels_follow_their_names(tmp_path):
    labels = np.arange(16).reshape(4, 4) % 4
    dataset = label_set(tmp_path, labels)
    for words in (("grass", "sky", "dog", "cat"), ("dog", "lawn")):
        other = dataset.with_classes(Vocabulary.parse(list(words)))
        found = other.read_segments(other.records[0], (4, 4))
        names = np.array(["cat", "dog", "sky", "lawn" if "lawn" in words else "grass"])[labels]
        expected = np.array([[words.index(n) if n in words else -1 for n in row] for row in names])
        np.testing.assert_array_equal(found.semantic(), expected)
    assert other.dropped == ["cat", "sky"] and found.dropped.tolist() == [4, 0, 4, 0]
    assert other.tell_dropped(found.dropped, 16) == ["dropped 2 classes (cat, sky): 50.0 % of the pixels"]
    assert (
        dataset.tell_dropped(np.zeros(0), 16) == []
        and dataset.read_segments(dataset.records[0], (4, 4)).dropped.size == 0
    )
    again = other.with_classes(Vocabulary.parse(["lawn"]))
    assert again.dropped == ["cat", "dog", "sky"] and again.file_classes == dataset.classes
    assert again.read_segments(again.records[0], (4, 4)).dropped.tolist() == [4, 4, 4, 0]


def test_merged_classes_are_one_segment_where_objects_are_not_told_apart(tmp_path):
    labels = np.repeat(np.arange(4)[:, None], 4, 1)
    dataset = label_set(tmp_path, labels).with_classes(Vocabulary.parse(["grass", "animal|cat|dog"]))
    found = dataset.read_segments(dataset.records[0], (4, 4))
    assert sorted(found.classes.tolist()) == [0, 1]
    assert found.semantic()[:, 0].tolist() == [1, 1, -1, 0]


def panoptic(folder: Path) -> Dataset:
    """One image of two cats, a dog, sky and grass; a row each."""
    for name in ("images", "panoptic"):
        (folder / name).mkdir(parents=True)
    ids = np.zeros((5, 6, 3), np.uint8)
    ids[..., 0] = np.arange(1, 6)[:, None]
    Image.fromarray(ids).save(folder / "panoptic/a.png")
    Image.fromarray(ids).save(folder / "images/a.png")
    names = {7: ("cat", 1), 3: ("dog", 1), 90: ("sky", 0), 4: ("grass", 0)}
    data = {
        "images": [{"id": 0, "file_name": "a.png", "height": 5, "width": 6}],
        "annotations": [
            {
                "image_id": 0,
                "file_name": "a.png",
                "segments_info": [{"id": i + 1, "category_id": c} for i, c in enumerate((7, 7, 3, 90, 4))],
            }
        ],
        "categories": [{"id": i, "name": name, "isthing": thing} for i, (name, thing) in names.items()],
    }
    (folder / "panoptic.json").write_text(json.dumps(data))
    return read_dataset(str(folder))


def test_panoptic_data_say_what_a_thing_is(tmp_path):
    dataset = panoptic(tmp_path / "p")
    assert dataset.kind == PANOPTIC
    words = Vocabulary.parse("scenery|sky|grass, animal|cat|dog, cup")  # a text: all of them things
    other = dataset.with_classes(words)
    assert [entry.is_thing for entry in other.classes] == [False, True, True]
    found = other.read_segments(other.records[0], (5, 6))
    assert found.semantic()[:, 0].tolist() == [1, 1, 1, 0, 0]
    assert sorted(found.classes.tolist()) == [0, 1, 1, 1]  # objects stay apart
    with pytest.raises(InputError, match=r"'world' .* merge things and stuff of the data .cat, sky."):
        dataset.with_classes(Vocabulary.parse("world|cat|sky, dog"))


def test_data_sets_that_are_learnt_from_together(own_data):
    found = load_datasets([str(own_data), str(own_data)], "blix, glorps")
    assert [dataset.remap.tolist() for dataset in found] == [[1, 0], [1, 0]]
    assert found[0].notes == ("1 class matched by a synonym: glorp as glorps",)
