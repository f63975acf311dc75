"""Texts that are longer than a text tower reads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from ovseg.errors import ConfigError, VocabularyError
from ovseg.vocabulary import Background, Queries, TextCache, TextEmbedder, TextOptions, Vocabulary
from ovseg.vocabulary.lengths import _ends

LIMIT = 8  # two of them around the text


class WordTower:
    """Reads six words of a text; an embedding says which."""

    name, weights_hash, text_limit = "words", "0", LIMIT

    def __init__(self) -> None:
        self.read_whole: list[str] = []

    def count_tokens(self, texts: list[str], /) -> list[int]:
        return [len(text.split()) + 2 for text in texts]

    def read_of(self, texts: list[str], /) -> list[str]:
        return [" ".join(text.split()[: LIMIT - 2]) for text in texts]

    def text(self, texts: list[str], /) -> Tensor:
        return torch.stack([self.vector(text) for text in self.read_of(texts)])

    def long_text(self, texts: list[str], /) -> Tensor:
        self.read_whole += texts
        return torch.stack([self.vector(text) for text in texts])

    def vector(self, text: str) -> Tensor:
        return torch.randn(8, generator=torch.Generator().manual_seed(sum(text.encode())))


def embed(
    words: str, templates: list[str], long_text: bool = False, cache: TextCache | None = None, tower: object = None
) -> Queries:
    embedder = TextEmbedder(tower or WordTower(), templates, cache, TextOptions(long_text=long_text))  # type: ignore[arg-type]
    return embedder.embed_vocabulary(Vocabulary.parse(words), Background())


def test_texts_that_fit_are_not_mentioned() -> None:
    assert embed("one two three four five six, cat", ["{}"]).notes == ()


def test_templates_count() -> None:
    """The name fits, the filled template does not; what remains of the longest one is told."""
    (note,) = embed("one two three, cat", ["{}", "a photo of {} .", "a {}"]).notes
    assert note == (
        "the model reads 8 tokens, the rest of longer texts was cut (long_text reads it): 'one two three' has 9 in "
        "'a photo of one two three .', what is read ends with 'a photo of one two three'"
    )


def test_many_are_counted() -> None:
    words = ", ".join(f"{letter} b c d e f g" for letter in "pqrst")
    (note,) = embed(words, ["{}"]).notes
    assert note.endswith("; and 2 more") and note.count("has 9") == 3


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("a b c d e f red, a b c d e f blue", ("class 0 ('a b c d e f red')", "class 1 ('a b c d e f blue')")),
        ("a b c d e f, a b c d e f blue", ("class 0 ('a b c d e f')", "class 1 ('a b c d e f blue')")),
        ("cat, a b c d e f|x, a b c d e f blue", ("class 1 ('a b c d e f')", "class 2 ('a b c d e f blue')")),
    ],
)
def test_classes_that_become_one_are_refused(words: str, named: tuple[str, ...]) -> None:
    with pytest.raises(VocabularyError, match="become the same text") as caught:
        embed(words, ["{}"])
    assert all(part in str(caught.value) for part in named) and "'a b c d e f'" in str(caught.value)


def test_a_background_word_that_becomes_a_class_is_refused() -> None:
    words, sky = Vocabulary.parse("a b c d e f red, cat"), Background("words", words=("a b c d e f sky",))
    with pytest.raises(VocabularyError, match=r"class 0 .* and the background word 'a b c d e f sky'"):
        TextEmbedder(WordTower(), ["{}"]).embed_vocabulary(words, sky)


def test_one_template_that_tells_them_apart_is_enough() -> None:
    found = embed("a b c d e red, a b c d e blue", ["{}", "one {}"])
    assert not torch.equal(found.embeddings[0], found.embeddings[1]) and len(found.notes) == 1


def test_synonyms_that_become_one_are_no_two_classes() -> None:
    assert len(embed("a b c d e f red|a b c d e f blue, cat", ["{}"]).notes) == 1


def test_long_text_reads_all(tmp_path: Path) -> None:
    words, tower, cache = "a b c d e f red, a b c d e f blue", WordTower(), TextCache(tmp_path)
    cut = embed("a b c d e f red, cat", ["{}"], cache=cache)
    found = embed(words, ["{}"], long_text=True, cache=cache, tower=tower)
    assert tower.read_whole == words.split(", ")  # what was cut before is no answer for what is read in windows
    assert not torch.equal(found.embeddings[0], found.embeddings[1])
    assert not torch.equal(found.embeddings[0], cut.embeddings[0])
    assert "longer texts were read in windows" in found.notes[0]
    assert torch.equal(embed("a b c d e f red, cat", ["{}"], cache=cache).embeddings, cut.embeddings)


def test_a_tower_without_a_limit() -> None:
    class Endless:
        name, weights_hash = "endless", "0"

        def text(self, texts: list[str], /) -> Tensor:
            return torch.ones(len(texts), 4)

    assert embed("a b c d e f g h i j k l m, cat", ["{}"], tower=Endless()).notes == ()
    with pytest.raises(ConfigError, match="long_text needs a text tower"):
        embed("cat, dog", ["{}"], long_text=True, tower=Endless())


def test_long_text_is_recorded() -> None:
    assert TextOptions(long_text=True).to_json() == {"long_text": True}


def test_texts_that_differ_at_the_end_are_told_by_both_ends() -> None:
    start = "a very old wooden chair with carved legs and a red cushion beside the window of the living "
    assert _ends(f"{start}room") != _ends(f"{start}hall") and len(_ends(f"{start}room")) < 60
