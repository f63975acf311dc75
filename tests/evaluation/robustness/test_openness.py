"""More words than the vocabulary has."""

from __future__ import annotations

import pytest

from ovseg.errors import InputError
from ovseg.evaluation.robustness import Distractors
from ovseg.vocabulary import Vocabulary

VOC = Vocabulary.parse("voc20")


def test_distractors_grow_and_are_no_class_of_the_vocabulary() -> None:
    small, large = (Distractors(severity=n).vocabulary(VOC) for n in (10, 50))
    assert large.names[:20] == VOC.names and small.names == large.names[:30] and len(large) == 70
    assert small != Distractors(severity=10, seed=1).vocabulary(VOC)
    source = Vocabulary.parse(["feline|cat", "moon", "CAR", "mars|venus"])
    words = Vocabulary.parse(["cat", "car"])
    assert sorted(Distractors(severity=2, source=source).vocabulary(words).names[2:]) == ["mars", "moon"]
    with pytest.raises(InputError, match="3 distractors are asked for, but the given words have 2 names"):
        Distractors(severity=3, source=source).vocabulary(words)
    with pytest.raises(InputError, match="0 added names; expected 1 or more"):
        Distractors(severity=0)
