"""Notes on words in scripts that a text tower has hardly learnt."""

from __future__ import annotations

import pytest

from ovseg.clip.text_tokens import TextTokens
from ovseg.errors import VocabularyError
from ovseg.vocabulary import Background, TextEmbedder, Vocabulary
from ovseg.vocabulary.scripts import SPELLED, share_spelled
from ovseg.vocabulary.words import WORD_LISTS
from tests.clip.narrow_hf import TOKENIZERS

ENGLISH = ["zucchini", "xylophone", "TV", "MRI scanner", "crème brûlée", "jalapeño", "naïve", "fire hydrant", "x", "é"]
GERMAN = ["Bär", "Öl", "Tür", "Straße", "Äpfel", "Gebäude", "Fußgängerübergang", "Kühlschrank", "Vögel", "Fluss"]
FOREIGN = {
    "Japanese": "猫 犬 空 コーヒー 自転車 ねこ",
    "Chinese": "狗 天空 树 道路",
    "Korean": "고양이 개 하늘 나무",
    "Russian": "кошка собака дерево небо",
    "Greek": "γάτα σκύλος ουρανός",
    "Arabic": "قطة كلب سماء شجرة",
    "Hebrew": "חתול כלב שמיים",
    "Hindi": "बिल्ली कुत्ता आकाश",
    "Thai": "แมว หมา ท้องฟ้า",
}


def shares(words):
    tokens = TextTokens({})
    return {word: share_spelled(tokens.pieces(word)) for word in words}


def test_english_and_german_are_known_to_clip():
    known = shares([*ENGLISH, *GERMAN, *(word for words in WORD_LISTS.values() for word in words)])
    assert {word: share for word, share in known.items() if share > SPELLED} == {}


@pytest.mark.parametrize("language", FOREIGN)
def test_other_scripts_are_not(language):
    found = shares(FOREIGN[language].split())
    assert {word: share for word, share in found.items() if share <= SPELLED} == {}


def test_signs_that_are_words_are_no_letters():
    assert share_spelled(["猫", "と", "犬"]) == 0
    assert share_spelled(["ж", "ы", "ш"]) == 1
    assert share_spelled(["ж"]) == 0  # a word of one letter
    assert share_spelled(["жы", None]) == 0.5
    assert share_spelled([]) == 0
    assert share_spelled(["é"]) == share_spelled(["★", "☆"]) == 0


class Speller:
    """A text tower that knows its tokenizer alone."""

    name, weights_hash, embed_dim = "own", "0" * 16, 4

    def __init__(self, kind):
        self.tokenizer = TOKENIZERS[kind]()

    def pieces_of(self, texts):
        from ovseg.clip.text_pieces import of_hub

        return [of_hub(self.tokenizer, text) for text in texts]

    def read_of(self, texts):
        return [self.tokenizer.decode(self.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]

    def text(self, texts):
        import torch

        return torch.eye(4)[[len(text) % 4 for text in texts]]


def notes(kind, words):
    found = TextEmbedder(Speller(kind), "none", None).embed_vocabulary(Vocabulary.parse(words), Background())
    return [note for note in found.notes if "hardly learnt" in note]


def test_the_note_names_the_words():
    (note,) = notes("bytes", ["cat", "馬", "牛", "dog"])
    assert note.startswith("own has hardly learnt 2 of 4 texts: its tokenizer knows 100 % of their parts as bytes")
    assert "('馬', '牛')" in note and "multilingual model such as clearclip/" in note and "\n" not in note


def test_a_tower_that_knows_the_words_says_nothing():
    assert notes("unigram", ["猫", "犬", "空", "кошка"]) == []
    assert notes("bytes", ["a cat", "a dog"]) == []
    (note,) = notes("wordpiece", ["猫", "馬と牛"])
    assert "('馬と牛')" in note


def test_words_that_become_one_are_refused():
    with pytest.raises(
        VocabularyError, match=r"'馬' and '牛' become the same text: .* knows neither and reads '\[UNK\]'"
    ):
        notes("wordpiece", ["猫", "馬", "牛"])
    assert len(notes("wordpiece", ["猫", "馬|牛"])) == 1  # of one class they may
    assert len(notes("fallback", ["馬", "牛"])) == 1  # bytes differ
