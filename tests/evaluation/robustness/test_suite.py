"""The list of conditions that a user asks for, and means and drops of their scores."""

from __future__ import annotations

import json
import pickle

import pytest

from ovseg.errors import InputError, UnknownNameError
from ovseg.evaluation.robustness import Condition, Corruption, Typos, conditions, summarise


def keys(**wanted: str) -> list[str]:
    return [one.key for one in conditions(**wanted)]


def test_what_is_asked_for() -> None:
    assert keys() == ["clean"]
    assert keys(corruptions="fog, snow:3") == ["clean", *(f"fog-{n}" for n in range(1, 6)), "snow-3"]
    assert keys(corruptions="noise:1-2")[1:3] == ["gaussian_noise-1", "gaussian_noise-2"]
    assert len(conditions(corruptions="all")) == 76 and len(conditions(corruptions="all:3,fog:3")) == 16
    rest = keys(typos="1,2", paraphrases="1", distractors="10,100", typographic="3-5")
    assert rest[1:] == ["typos-1", "typos-2", "paraphrase-1", "distractors-10", "distractors-100"] + [
        f"typographic-{n}" for n in (3, 4, 5)
    ]
    found = conditions(corruptions="all:1", typos="1", distractors="5", typographic="1", seed=7)
    assert {one.seed for one in found} == {7} and pickle.loads(pickle.dumps(found)) == found


@pytest.mark.parametrize(
    ("wanted", "error", "words"),
    [
        ({"corruptions": "smog"}, UnknownNameError, "unknown corruption 'smog'"),
        ({"corruptions": "fog:x"}, InputError, "corruption 'fog' is 'x'; expected numbers such as 1,3 or 1-5"),
        ({"corruptions": "fog:9"}, InputError, "severity 9; expected 1 to 5"),
        ({"typos": "many"}, InputError, "typos is 'many'"),
        ({"typos": "0"}, InputError, "0 mistakes"),
        ({"typographic": "5-1"}, InputError, "typographic is '5-1'"),
    ],
)
def test_mistakes(wanted: dict[str, str], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        conditions(**wanted)


def test_means_and_drops_by_hand() -> None:
    scores = [
        (Condition(), {"miou": 0.8, "pq": 0.5}),
        (Corruption("fog", 1), {"miou": 0.7, "pq": 0.5}),
        (Corruption("fog", 5), {"miou": 0.5, "pq": None}),
        (Corruption("snow", 5), {"miou": 0.2, "pq": 0.1}),
        (Typos(severity=1), {"miou": 0.9}),
    ]
    report = summarise(scores)
    corruption, names = report["families"]["corruption"], report["families"]["names"]
    assert corruption["names"] == {"fog": {"miou": 0.6, "pq": 0.5}, "snow": {"miou": 0.2, "pq": 0.1}}
    assert corruption["mean"] == pytest.approx({"miou": 0.4, "pq": 0.3})  # over names, not over conditions
    assert corruption["drop"] == pytest.approx({"miou": 0.4, "pq": 0.2})
    assert names["drop"] == {"miou": pytest.approx(-0.1), "pq": None}
    assert [row["key"] for row in report["conditions"]] == ["fog-1", "fog-5", "snow-5", "typos-1"]
    assert report["conditions"][1]["drop"] == {"miou": pytest.approx(0.3), "pq": None}
    json.dumps(report, allow_nan=False)
    with pytest.raises(InputError, match="lack the clean condition"):
        summarise(scores[1:])
