"""Conditions that change the names of the classes: misspelt, or said otherwise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovseg.errors import InputError
from ovseg.evaluation.robustness import Paraphrase, Typos
from ovseg.evaluation.robustness.names import misspell
from ovseg.vocabulary import Vocabulary

VOC = Vocabulary.parse("voc20")
COCO = Vocabulary.parse("coco133")
LETTERS = st.text("abcdefghij klmnopqrstuvwxyzÄ中", min_size=1, max_size=20).filter(lambda text: text.strip())


def edits(first: str, second: str) -> int:
    """Number of insertions, deletions, replacements and swaps of neighbours that lead from one to the other."""
    rows = np.zeros((len(first) + 1, len(second) + 1), int)
    rows[:, 0], rows[0] = np.arange(len(first) + 1), np.arange(len(second) + 1)
    for i in range(1, len(first) + 1):
        for j in range(1, len(second) + 1):
            same = first[i - 1] == second[j - 1]
            rows[i, j] = min(rows[i - 1, j] + 1, rows[i, j - 1] + 1, rows[i - 1, j - 1] + (not same))
            if i > 1 and j > 1 and first[i - 1] == second[j - 2] and first[i - 2] == second[j - 1]:
                rows[i, j] = min(rows[i, j], rows[i - 2, j - 2] + 1)
    return int(rows[-1, -1])


@settings(max_examples=100, deadline=None)
@given(LETTERS, st.integers(1, 3), st.integers(0, 999))
def test_a_misspelt_name_is_as_far_away_as_it_has_mistakes(name: str, count: int, seed: int) -> None:
    wrong = misspell(name, count, np.random.default_rng(seed))
    assert edits(name, wrong) <= count and name.count(" ") == wrong.count(" ")
    assert wrong.split() and len(wrong.split()) == len(name.split())


def test_all_four_kinds_of_mistakes_happen() -> None:
    found = {misspell("cats", 1, np.random.default_rng(seed)) for seed in range(300)}
    assert {"ctas", "cts", "caats", "cars", "casts"} - found == {"casts"}
    assert all(edits("cats", one) == 1 for one in found - {"cats"})


def test_misspelt_vocabularies_stay_vocabularies() -> None:
    first, again, other = (Typos(severity=1, seed=seed).vocabulary(COCO) for seed in (0, 0, 1))
    assert first == again and first != other and len(first) == len(COCO)
    changed = [a != b for a, b in zip(first.queries, COCO.queries, strict=True)]
    assert np.mean(changed) > 0.98
    assert not {q for q, c in zip(first.queries, changed, strict=True) if c} & set(COCO.queries)
    assert [e.is_thing for e in first] == [e.is_thing for e in COCO]
    alone = Typos().vocabulary(Vocabulary.parse(["horse"]))
    assert alone.names[0] == Typos().vocabulary(VOC).names[VOC.names.index("horse")]  # not by the place in the list
    assert Typos(severity=2).vocabulary(Vocabulary.parse(["?!"])).names == ["?!"]


def test_paraphrases_are_synonyms_first_and_sentences_else() -> None:
    words = Vocabulary.parse(["cat|kitten|puss", "sofa|couch", "sky"])
    assert Paraphrase(severity=1).vocabulary(words).names == ["kitten", "couch", "thing called sky"]
    second = Paraphrase(severity=2).vocabulary(words)
    assert second.names == ["puss", "thing that people call sofa", "thing that people call sky"]
    assert second.queries == second.names
    with pytest.raises(InputError, match="number 9; expected 1 to 5"):
        Paraphrase(severity=9)
