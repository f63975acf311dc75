"""Words written on the photo."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovseg.errors import InputError
from ovseg.evaluation.robustness import Typographic
from ovseg.vocabulary import Vocabulary

VOC = Vocabulary.parse("voc20")


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 90), st.integers(1, 120), st.sets(st.integers(0, 19)), st.integers(1, 5))
def test_the_word_on_the_photo_is_of_an_absent_class(height: int, width: int, present: set[int], severity: int) -> None:
    grey = np.full((height, width, 3), 128, np.uint8)
    attack = Typographic(severity=severity)
    found, word = attack.image(grey, "a.jpg", VOC, np.array(sorted(present))), attack.word("a.jpg", VOC, present)
    assert found.shape == grey.shape and found.dtype == np.uint8
    assert (word in VOC.names and VOC.names.index(word) not in present) if len(present) < 20 else word == ""
    assert np.array_equal(found, attack.image(grey, "a.jpg", VOC, present))


def test_letters_grow_and_have_a_rim() -> None:
    grey = np.full((200, 300, 3), 128, np.uint8)
    shares = []
    for severity in range(1, 6):
        found = Typographic(severity=severity).image(grey, "a.jpg", VOC, [0])
        shares.append(float((found != 128).mean()))
        assert found.max() > 240 and found.min() < 15
    assert shares == sorted(shares) and shares[0] > 0.001 and shares[-1] < 0.5
    assert {Typographic(severity=s).word("a.jpg", VOC, [0]) for s in range(1, 6)} == {
        Typographic().word("a.jpg", VOC, [0])
    }
    assert len({Typographic().word(f"{i}.jpg", VOC, [0]) for i in range(20)}) > 5
    with pytest.raises(InputError, match="severity 6; expected 1 to 5"):
        Typographic(severity=6)
