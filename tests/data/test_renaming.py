"""Renaming is said outright: by a text or a file of old and new names."""

from __future__ import annotations

import json

import pytest

from ovseg.data.registration import choose_classes
from ovseg.data.renaming import read_renames, rename_classes
from ovseg.errors import InputError, OvsegError, UnknownNameError, VocabularyError
from ovseg.vocabulary import Vocabulary
from tests.data.test_matching import label_set

OWN = Vocabulary.parse([{"name": "car", "synonyms": ["auto"]}, {"name": "truck"}, {"name": "sky", "is_thing": False}])
EXPECTED = {"car": ("vehicle", "motor car"), "sky": ("the sky",)}


def test_three_ways_to_say_it(tmp_path):
    text, data = tmp_path / "names.txt", tmp_path / "names.json"
    text.write_text("# ours = theirs\n\ncar = vehicle | motor car\nsky=the sky\n")
    data.write_text(json.dumps({"car": ["vehicle", "motor car"], "sky": "the sky"}))
    for source in ("car=vehicle|motor car, sky = the sky", str(text), str(data)):
        assert read_renames(source) == EXPECTED


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("car", InputError, "'car' is no renaming; expected 'old=new, ...'"),
        ("car=", InputError, "'car=' in 'car=' is no renaming"),
        ("a=b, c", InputError, "'c' in 'a=b, c' is no renaming"),
        ("a=b=c", InputError, "is no renaming"),
        ("a=b, A=c", InputError, "'A' is renamed twice"),
        ("a=b|", VocabularyError, "a class name is empty"),
        ("nothing.txt", InputError, "cannot be read: No such file"),
    ],
)
def test_what_is_no_renaming(source, error, message):
    with pytest.raises(error) as found:
        read_renames(source)
    assert message in str(found.value)


@pytest.mark.parametrize("text", ["{", "[]", '["a"]', '{"a": 3}', '{"a": "b", "a": "c"}', '{"a": []}', "[" * 9999])
def test_json_that_is_no_renaming(tmp_path, text):
    path = tmp_path / "names.json"
    path.write_text(text)
    with pytest.raises(OvsegError) as found:
        read_renames(str(path))
    assert "\n" not in str(found.value)


def test_a_class_gets_its_new_names_alone():
    found = rename_classes(OWN, read_renames("auto=vehicle, sky=truck top"), "own")
    assert [entry.names for entry in found.classes] == [("vehicle",), ("truck",), ("truck top",)]
    assert found.places.tolist() == [0, 1, 2] and not found.classes[2].is_thing
    assert found.notes == ("renamed 2 of 3 classes of the data: car to vehicle, sky to truck top",)


def test_names_may_be_swapped_and_classes_merged():
    swapped = rename_classes(OWN, read_renames("car=truck, truck=car"), "own")
    assert swapped.classes.names == ["truck", "car", "sky"] and swapped.places.tolist() == [0, 1, 2]
    one = rename_classes(OWN, read_renames("car=truck|lorry"), "own")
    assert [entry.names for entry in one.classes] == [("truck", "lorry"), ("sky",)] and one.places.tolist() == [0, 0, 1]
    assert one.notes[1] == "2 classes of the data (car, truck) are merged into 'truck'"


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("trukc=lorry", UnknownNameError, "unknown class of 'own' to rename 'trukc'; did you mean truck?"),
        ("car=a, auto=b", InputError, "'car|auto' of 'own' is renamed twice"),
        ("car=sky", InputError, "would merge things and stuff of 'own' (car, sky)"),
        ("truck=auto", VocabularyError, "duplicate names: 'auto'"),
    ],
)
def test_what_cannot_be_renamed(source, error, message):
    with pytest.raises(error) as found:
        rename_classes(OWN, read_renames(source), "own")
    assert message in str(found.value)


def test_renaming_comes_before_the_words_and_fits_one_of_several_sets(tmp_path):
    import numpy as np

    labels = np.zeros((2, 2))
    first, second = label_set(tmp_path / "a", labels), label_set(tmp_path / "b", labels, ("cat", "cow"))
    both = choose_classes([first, second], "animal, sky", "cat=animal, dog=animal")
    assert [dataset.remap.tolist() for dataset in both] == [[0, 0, 1, -1], [0, -1]]
    assert both[0].notes == (
        "renamed 2 of 4 classes of the data: cat to animal, dog to animal",
        "2 classes of the data (cat, dog) are merged into 'animal'",
        "dropped 1 of 3 classes of the data (grass): their pixels are void",
    )
    with pytest.raises(UnknownNameError, match="to rename 'hors'"):
        choose_classes([first, second], "", "cow=ox, hors=horse")
