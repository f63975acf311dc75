"""What all conditions have in common."""

from __future__ import annotations

import numpy as np

from ovseg.evaluation.robustness import Condition, Typos
from ovseg.vocabulary import Vocabulary


def test_the_clean_condition_changes_nothing() -> None:
    words, pixels = Vocabulary.parse("voc20"), np.zeros((3, 4, 3), np.uint8)
    assert Condition().image(pixels, "a", words, [0]) is pixels and Condition().vocabulary(words) is words
    assert Condition().key == "clean" and Typos(severity=2).key == "typos-2"
