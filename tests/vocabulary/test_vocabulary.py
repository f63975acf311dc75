from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovseg.errors import OvsegError, UnknownNameError, VocabularyError
from ovseg.vocabulary import ClassEntry, Vocabulary
from ovseg.vocabulary.names import fold, spoken

# Any legal character but what separates; inner and outer spaces included.
LETTERS = st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp"), exclude_characters=",|")
NAMES = st.text(LETTERS, min_size=1, max_size=12).map(str.strip).filter(lambda s: any(c.isalnum() for c in s))
PLAIN = st.text(st.characters(categories=("Lu", "Ll", "Lo")), min_size=1, max_size=12)


def _classes(names: st.SearchStrategy[str]) -> st.SearchStrategy[list[list[str]]]:
    return st.lists(names, min_size=1, max_size=12, unique_by=fold).flatmap(
        lambda names: st.lists(st.integers(1, 3), min_size=len(names), max_size=len(names)).map(
            lambda sizes: [group for group in _groups(names, sizes) if group]
        )
    )


def _groups(names: list[str], sizes: list[int]) -> list[list[str]]:
    rest = list(names)
    return [[rest.pop(0) for _ in range(min(size, len(rest)))] for size in sizes]


CLASSES = _classes(NAMES)


@given(CLASSES)
def test_order_in_is_ids_out(classes: list[list[str]]) -> None:
    vocabulary = Vocabulary.parse(classes)
    assert [list(entry.names) for entry in vocabulary] == classes
    assert vocabulary.queries == [spoken(name) for names in classes for name in names]
    assert len(vocabulary.query_to_class) == len(vocabulary.queries)
    assert [vocabulary[i].names[0] for i in sorted(set(vocabulary.query_to_class))] == vocabulary.names


@given(CLASSES)
def test_json_is_read_back(classes: list[list[str]]) -> None:
    vocabulary = Vocabulary.parse(classes)
    assert Vocabulary.parse(vocabulary.to_json()) == vocabulary
    assert Vocabulary.parse(vocabulary.to_json()).hash == vocabulary.hash
    assert Vocabulary.parse(vocabulary) is vocabulary


@given(CLASSES)
def test_format_is_read_back_or_refused(classes: list[list[str]]) -> None:
    vocabulary = Vocabulary.parse(classes)
    try:
        text = vocabulary.format()
    except VocabularyError:
        return
    assert Vocabulary.parse(text) == vocabulary


@given(_classes(PLAIN))
def test_plain_names_have_a_format(classes: list[list[str]]) -> None:
    vocabulary = Vocabulary.parse(classes)
    for again in (vocabulary.format(), ["|".join(names) for names in classes]):
        assert Vocabulary.parse(again) == vocabulary


@given(CLASSES.filter(lambda classes: len(classes) > 1))
def test_hash_knows_the_order(classes: list[list[str]]) -> None:
    assert Vocabulary.parse(classes).hash != Vocabulary.parse(classes[::-1]).hash


@pytest.mark.parametrize("name", ["voc20", "ADE150", "words.txt", "a.JSON", "/etc/words", "f16", "coco"])
def test_words_that_look_like_files_or_presets_survive_format(name: str) -> None:
    for classes in ([name], ["cat", name], [name, "cat"]):
        assert Vocabulary.parse(Vocabulary.parse(classes).format()).names == classes


def test_hash_is_stable_over_processes_and_versions() -> None:
    code = "from ovseg.vocabulary import Vocabulary; print(Vocabulary.parse('cat|kitten, sofa').hash)"
    found = {subprocess.check_output([sys.executable, "-c", code], text=True).strip() for _ in range(2)}
    assert found == {Vocabulary.parse([["cat", "kitten"], "sofa"]).hash} == {"95ceeac1c0342c87"}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (["cat", "sofa"], [["cat"], ["sofa"]]),
        (("cat",), [["cat"]]),
        (["red chair|armchair", " window "], [["red chair", "armchair"], ["window"]]),
        ([["cat", "kitten"], ("sofa",)], [["cat", "kitten"], ["sofa"]]),
        ("cat|kitten, sofa", [["cat", "kitten"], ["sofa"]]),
        ("cat|kitten", [["cat", "kitten"]]),
        ("cat", [["cat"]]),
        ("red chair", [["red chair"]]),
        ("cat, sofa,", [["cat"], ["sofa"]]),  # one comma at the end
        ("f16,", [["f16"]]),  # ... also makes a word of what looks like a preset
        (["voc20"], [["voc20"]]),  # in a list nothing is a preset
        ("voc20, cat,", [["voc20"], ["cat"]]),
        (["🐱", "😀|🙂", "👩‍🚀"], [["🐱"], ["😀", "🙂"], ["👩‍🚀"]]),
        ("قطة, חתול|כלב", [["قطة"], ["חתול", "כלב"]]),
        ([["person, individual", "someone"]], [["person, individual", "someone"]]),  # literal inside a list of names
        ([{"name": "cat", "synonyms": ["kitten"]}, {"name": "sky"}], [["cat", "kitten"], ["sky"]]),
        (dict.fromkeys(["b", "a"]).keys(), [["b"], ["a"]]),
        (["x" * 1000], [["x" * 1000]]),
    ],
)
def test_accepted_sources(source: Any, expected: list[list[str]]) -> None:
    assert [list(entry.names) for entry in Vocabulary.parse(source)] == expected


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ([], "no classes"),
        ("", "empty text"),
        ("   ", "empty text"),
        (",", "class 0 is empty"),
        ("cat,,dog", "class 1 is empty"),
        ("cat,,", "class 1 is empty"),
        ("cat|", "class 0 is empty"),
        (["cat", ""], "class 1 is empty"),
        (["cat", "\u200b"], "class 1 is empty"),  # only invisible characters
        ([["cat"], []], "class 1 is an empty list"),
        (["cat", "cat"], "'cat' in class 0 and class 1"),
        (["cat", "dog", " CAT "], "'cat' in class 0 and 'CAT' in class 2"),
        (["cat|kitten", "Kitten"], "'kitten' in class 0 and 'Kitten' in class 1"),
        ([["cat", "Cat"]], "'cat' in class 0 and 'Cat' in class 0"),
        (["Straße", "STRASSE"], "duplicate"),
        (["caf\u00e9", "cafe\u0301"], "duplicate"),  # composed and decomposed
        (["x" * 1001], "1001 characters"),
        (["y" * 5000], "5000 characters"),
        (["cat", "a\nb"], "line break"),
        (["a\x00b"], "control character"),
        (["a\u2028b"], "line break"),
        (["\ud800"], "control character"),
        (["cat", 3], "class 1 is 3 (int)"),
        (["cat", None], "class 1 is None"),
        ([["cat", 3]], "class 0 is 3 (int)"),
        (["cat, dog"], "holds a comma"),
        ([["a|b"]], "'|'"),
        ({"cat", "dog"}, "a set has no order"),
        (b"cat", "bytes"),
        (7, "int"),
        (None, "NoneType"),
        ({"cat": "dog"}, "categories"),
        ([{"name": "cat", "synonims": []}], "did you mean synonyms"),
        ([{"synonyms": ["cat"]}], "has no name; give it one"),
        ([{"name": "cat", "synonyms": "kitten"}], "list of names"),
        ([{"name": "cat", "is_thing": "no"}], "true or false"),
        ("cat, words.txt", "words or a file"),
        ("ade150, cat", "mixes a preset"),
        ("missing.txt", "does not exist"),
        ("./missing.json", "does not exist"),
        ("words.csv", "does not exist"),
        ("/etc/", "cannot be read"),
        (Path("missing"), "does not exist"),
        ("z" * 5000 + ".txt", "cannot be read"),
        ("a\x00.txt", "cannot be read"),
        ("ade15", "did you mean ade150"),
        ("cityscapes", "did you mean cityscapes19"),
        ("ade847", "did you mean"),
        ("coco", "'coco,'"),
    ],
)
def test_refused_sources(source: Any, words: str) -> None:
    with pytest.raises(OvsegError) as caught:
        Vocabulary.parse(source)
    message = str(caught.value)
    assert words in message
    assert message.isprintable() and len(message) < 400


def test_refusals_have_their_own_types() -> None:
    with pytest.raises(UnknownNameError):
        Vocabulary.parse("voc22")
    with pytest.raises(VocabularyError):
        Vocabulary.parse(["cat", "cat"])
    with pytest.raises(VocabularyError, match="non-empty tuple"):
        ClassEntry("cat")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "word", ["cat", "ceramic", "coconut", "cocoa", "scape", "aged", "vocal", "city", "pc", "sky 1"]
)
def test_ordinary_words_are_not_taken_for_presets(word: str) -> None:
    assert Vocabulary.parse(word).names == [word]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", "cat|kitten\nsofa\n", [["cat", "kitten"], ["sofa"]]),
        ("a.txt", "\ufeffcat\r\n sofa \r\n\r\n\n", [["cat"], ["sofa"]]),  # byte order mark, Windows, blank end
        ("a.json", '["cat|kitten", ["sofa", "couch"]]', [["cat", "kitten"], ["sofa", "couch"]]),
        ("A.JSON", '[{"name": "cat", "is_thing": false}]', [["cat"]]),
        ("a.json", '{"categories": [{"id": 7, "name": "cat", "isthing": 0, "color": [1, 2, 3]}]}', [["cat"]]),
    ],
)
def test_files(tmp_path: Path, name: str, content: str, expected: list[list[str]]) -> None:
    path = tmp_path / name
    path.write_bytes(content.encode())
    for source in (path, str(path)):
        vocabulary = Vocabulary.parse(source)
        assert [list(entry.names) for entry in vocabulary] == expected
    assert vocabulary[0].is_thing == ("false" not in content and "isthing" not in content)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", b"", "is empty"),
        ("a.txt", b"cat\n\ndog\n", "line 2 is empty"),
        ("a.txt", b"cat, kitten\n", "line 1 ('cat, kitten') holds a comma"),
        ("a.txt", b"caf\xe9\n", "not UTF-8"),
        ("a.json", b"[", "not valid JSON"),
        ("a.json", b"[" * 100_000, "not valid JSON"),
        ("a.json", b"[]", "no classes"),
        ("a.json", b'"cat"', "expected a list"),
        ("a.json", b'{"categories": "cat"}', "expected a list"),
        ("a.json", b"[1]", "class 0 is 1 (int)"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(VocabularyError) as caught:
        Vocabulary.parse(path)
    assert words in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_folder_is_no_vocabulary(tmp_path: Path) -> None:
    folder = tmp_path / "words.txt"
    folder.mkdir()
    with pytest.raises(VocabularyError, match="cannot be read"):
        Vocabulary.parse(folder)


def test_thing_flags_count_in_equality_and_hash() -> None:
    one = Vocabulary((ClassEntry(("sky",), is_thing=False),))
    other = Vocabulary((ClassEntry(("sky",)),))
    assert one != other and one.hash != other.hash
    assert Vocabulary.parse(json.loads(json.dumps(one.to_json()))) == one
    assert pickle.loads(pickle.dumps(one)) == one


def test_format_refuses_what_it_cannot_carry() -> None:
    with pytest.raises(VocabularyError, match="comma"):
        Vocabulary.parse([["person, individual"]]).format()


def test_import_is_light() -> None:
    code = (
        "import sys; from ovseg.vocabulary import Vocabulary; Vocabulary.parse('ade150').names;"
        "print([m for m in ('torch', 'detectron2', 'open_clip', 'cv2', 'PIL') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
