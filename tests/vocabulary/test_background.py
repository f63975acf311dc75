from __future__ import annotations

import pytest
from detectron2.utils.registry import Registry
from hypothesis import given
from hypothesis import strategies as st

from ovseg.errors import OvsegError
from ovseg.vocabulary import BACKGROUND_REGISTRY, Background, parse_background
from ovseg.vocabulary.words import CURRENT_WORDS, WORD_LISTS

LIST = WORD_LISTS["words-v1"]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (None, Background("none")),
        ("none", Background("none")),
        (" None ", Background("none")),
        ("threshold:0.4", Background("threshold:0.4", threshold=0.4)),
        ("threshold: 1", Background("threshold:1.0", threshold=1.0)),
        ("words", Background("words-v1", words=LIST)),
        ("words-v1", Background("words-v1", words=LIST)),
        ("sky, wall", Background("words:sky, wall", words=("sky", "wall"))),
        ("sky,", Background("words:sky", words=("sky",))),
        ("words:sky", Background("words:sky", words=("sky",))),
        ("words:sky, blue wall,", Background("words:sky, blue wall", words=("sky", "blue wall"))),
        (["sky"], Background("words:sky", words=("sky",))),
        (("sky", " wall "), Background("words:sky, wall", words=("sky", "wall"))),
        ("天空, سماء", Background("words:天空, سماء", words=("天空", "سماء"))),
        (Background("threshold:0.2", 0.2), Background("threshold:0.2", 0.2)),
    ],
)
def test_accepted(source: object, expected: Background) -> None:
    found = parse_background(source)  # type: ignore[arg-type]
    assert found == expected
    assert parse_background(found.policy) == found  # the canonical text tells all


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("", "empty text"),
        ("treshold:0.4", "did you mean threshold"),
        ("treshold:0,4", "did you mean threshold"),
        ("threshhold", "did you mean threshold"),
        ("word", "did you mean words"),
        ("words-v2", "did you mean words-v1"),
        ("nome", "did you mean none"),
        ("sky", "words:sky, wall"),
        ("threshold", "'threshold:0.4'"),
        ("threshold:", "ends at its colon"),
        ("words:", "ends at its colon"),
        ("threshold:0", "above 0"),
        ("threshold:-0.1", "above 0"),
        ("threshold:1.01", "at most 1"),
        ("threshold:nan", "above 0"),
        ("threshold:inf", "at most 1"),
        ("threshold:0,4", "'threshold:0.4'"),
        ("threshold:much", "'much'"),
        ("none:1", "no argument"),
        ("sky,,wall", "word 1 is empty"),
        ("sky, Sky", "duplicate"),
        ("none, sky", "reads like a policy"),
        ("sky, threshold:0.4", "reads like a policy"),
        ([], "empty"),
        (["sky", 3], "3 (int)"),
        (["sky, wall"], "holds a comma"),
        ({"sky"}, "set"),
        (0.4, "float"),
    ],
)
def test_refused(source: object, words: str) -> None:
    with pytest.raises(OvsegError) as caught:
        parse_background(source)  # type: ignore[arg-type]
    assert words in str(caught.value)
    assert str(caught.value).isprintable()


@given(st.floats(0, 1, exclude_min=True))
def test_thresholds_are_kept_exactly(value: float) -> None:
    found = parse_background(f"threshold:{value!r}")
    assert found.threshold == value and parse_background(found.policy) == found


def test_registry_takes_further_policies() -> None:
    assert isinstance(BACKGROUND_REGISTRY, Registry)
    assert {name for name, _ in BACKGROUND_REGISTRY} == {"none", "threshold", "words", "paired"}


def test_word_list_is_frozen() -> None:
    assert CURRENT_WORDS in WORD_LISTS
    assert len(LIST) == len(set(LIST)) == 36 and LIST[:2] == ("background", "sky") and LIST[-1] == "shadow"
