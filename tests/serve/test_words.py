from __future__ import annotations

import pytest

from ovseg.errors import InputError, OvsegError, UnknownNameError, VocabularyError
from ovseg.serve.limits import Limits
from ovseg.serve.words import typed_background, typed_vocabulary
from ovseg.vocabulary import Vocabulary

LIMITS = Limits(words=20)


@pytest.mark.parametrize(
    "text", ["cat|kitten, sofa", '["cat", "sofa"]', "cat\nsofa|couch", "cat . sofa .", "red chair,", "7: sand, 3: sea"]
)
def test_words_are_read_as_everywhere_else(text):
    found, wanted = typed_vocabulary(text, LIMITS), Vocabulary.parse(text)
    assert found == wanted and found.ids == wanted.ids and found.notes == wanted.notes


def test_a_lone_preset_is_one():
    assert typed_vocabulary(" VOC20 ", Limits()) == Vocabulary.parse("voc20")


@pytest.mark.parametrize("name", ["words.txt", "./words.txt", "~/words.txt", "names", "/etc/passwd", "../words.txt"])
def test_no_file_is_ever_read(name, tmp_path, monkeypatch):
    """Neither for the classes nor for the background, whatever lies beside the server."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for own in ("words.txt", "names"):
        (tmp_path / own).write_text("secret one\nsecret two\n", encoding="utf-8")
    for read in (typed_vocabulary, typed_background):
        for text in (name, f"{name},", f"words:{name}"):
            try:
                found = read(text, LIMITS)
            except OvsegError as error:
                assert "secret" not in str(error) and "root" not in str(error)
            else:
                assert "secret" not in str(found) and "root:" not in str(found)


def test_what_is_too_long_is_refused_before_it_is_read():
    with pytest.raises(InputError, match="the words have 2,001 letters; this page takes 2,000"):
        typed_vocabulary("x" * 2001, LIMITS)
    with pytest.raises(InputError, match="the list has 21 words; this page takes 20"):
        typed_vocabulary(", ".join(f"w{i}|v{i}" for i in range(10)) + ", last", LIMITS)
    with pytest.raises(InputError, match="this page takes 20"):
        typed_background(", ".join(f"w{i}" for i in range(21)), LIMITS)


def test_mistakes_are_those_of_the_library():
    with pytest.raises(VocabularyError, match="there are no words"):
        typed_vocabulary("  ", LIMITS)
    with pytest.raises(UnknownNameError, match="did you mean voc20"):
        typed_vocabulary("voc-20", LIMITS)
    with pytest.raises(VocabularyError, match="duplicate names: 'cat'"):
        typed_vocabulary("cat, cat", LIMITS)


def test_backgrounds():
    assert typed_background("", LIMITS) is None
    for policy in ("none", "words", "threshold:0.4"):
        found = typed_background(policy, Limits())
        assert found is not None and found.policy.startswith(policy)
    for text in ("sky, wall", "words:sky, wall"):
        found = typed_background(text, LIMITS)
        assert found is not None and found.words == ("sky", "wall")
    with pytest.raises(VocabularyError, match="above 0 and at most 1"):
        typed_background("threshold:7", LIMITS)
