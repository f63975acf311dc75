from __future__ import annotations

import json
from pathlib import Path

import pytest

from ovseg.errors import OvsegError, VocabularyError
from ovseg.vocabulary import Vocabulary
from ovseg.vocabulary.class_texts import list_class_texts, read_class_texts


def written(folder: Path, content: object) -> str:
    path = folder / "texts.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("file", list_class_texts())
def test_shipped_files_fit_their_preset(file: str) -> None:
    kind, _, preset = file.removesuffix(".json").partition("_")
    vocabulary = Vocabulary.parse(preset)
    texts = read_class_texts(file, single=kind == "definitions")
    assert list(texts.texts) == vocabulary.names
    assert texts.of(vocabulary)[1] == []
    assert all(len(text.split()) <= 50 for own in texts.texts.values() for text in own)


def test_shipped_names_come_first_and_paths_start_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path, {"cat": "a pet"})
    (tmp_path / "definitions_voc20.json").write_text('{"cat": "mine"}')
    assert read_class_texts("texts.json").texts == {"cat": ("a pet",)}
    assert len(read_class_texts("definitions_voc20.json").texts) == 20
    assert read_class_texts("./definitions_voc20.json").texts == {"cat": ("mine",)}


def test_classes_are_found_by_any_name(tmp_path: Path) -> None:
    content = {" Kitten ": " a \n pet ", "DOG": ["one", "two"], "background": "rest", "lorries": "x"}
    texts = read_class_texts(written(tmp_path, content))
    found, notes = texts.of(Vocabulary.parse("background, cat|kitten, dog, lorry, unicorn"))
    assert found == {1: ("a pet",), 2: ("one", "two")}
    assert notes == ["texts.json has no entry for 'lorry', 'unicorn'"]


def test_near_matches_are_named(tmp_path: Path) -> None:
    texts = read_class_texts(written(tmp_path, {"traffic ligth": "x", "sofa": "y"}))
    (note,) = texts.of(Vocabulary.parse("traffic light, sofa"))[1]
    assert note == "texts.json has no entry for 'traffic light' (is 'traffic ligth' for 'traffic light' meant?)"
    texts.require(Vocabulary.parse("traffic light, sofa"))
    with pytest.raises(VocabularyError, match=r"no entry for any class of 'cat'; its entries are for 'traffic ligth'"):
        texts.require(Vocabulary.parse("cat,"))


def test_many_missing_classes_make_a_short_note(tmp_path: Path) -> None:
    texts = read_class_texts(written(tmp_path, {"cat": "x"}))
    (note,) = texts.of(Vocabulary.parse([f"thing {i}" for i in range(30)]))[1]
    assert note.endswith("'thing 4' and 25 more")


@pytest.mark.parametrize(
    ("content", "single", "message"),
    [
        ("{", False, "is not valid JSON"),
        ("[" * 100_000, False, "is not valid JSON"),
        (["cat"], False, "expected texts by class name"),
        ({}, False, "expected texts by class name"),
        ({"cat": 3}, False, "has 3 for 'cat'"),
        ({"cat": {"a": "b"}}, False, "for 'cat'; expected"),
        ({"cat": []}, False, r"has \[\] for 'cat'"),
        ({"cat": ["x", 4]}, False, "has 4 among the texts of 'cat'"),
        ({"cat": "  "}, False, "among the texts of 'cat'; expected words"),
        ({"cat": ["one", "two"]}, True, """for 'cat'; expected {"cat": "a text"}"""),
        ({"Cat": "x", "cat": "y"}, False, "'Cat' and 'cat', which are one class"),
    ],
)
def test_mistakes_in_files(tmp_path: Path, content: object, single: bool, message: str) -> None:
    with pytest.raises(VocabularyError, match=message) as error:
        read_class_texts(written(tmp_path, content), single)
    assert "\n" not in str(error.value) and "texts.json" in str(error.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin.json").write_bytes('{"café": "x"}'.encode("latin-1"))
    for source, message in (
        (str(tmp_path / "none.json"), "does not exist; expected a path or one of definitions_voc20.json"),
        (str(tmp_path), "cannot be read"),
        (str(tmp_path / "latin.json"), "is not UTF-8"),
        ("a\0b", "cannot be read"),
    ):
        with pytest.raises(OvsegError, match=message):
            read_class_texts(source)
