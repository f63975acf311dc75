"""Calibrations: curves that never fall, interpolated between scores and lengths of lists, and where they belong."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ovseg.errors import ConfigError, WeightsError
from ovseg.labelling.calibration import Calibration, said_of, worth
from ovseg.vocabulary import parse_background

TWO = Calibration("w", {"a": {"b": 1}}, "none", "data", (4, 64), (0.0, 1.0, 3.0), ((0.2, 0.6, 1.0), (0.0, 0.2, 0.8)))
shares = st.lists(st.floats(0, 1, width=32), min_size=1, max_size=6).map(sorted)


def test_values_between_scores_and_between_lengths():
    scores = torch.tensor([[0.0, 0.5, 1.0, 2.0, 3.0, 9.0]])
    assert worth(scores.clone(), TWO, 4)[0].tolist() == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert worth(scores.clone(), TWO, 1)[0].tolist() == worth(scores.clone(), TWO, 4)[0].tolist()
    assert worth(scores.clone(), TWO, 10**6)[0].tolist() == pytest.approx([0.0, 0.1, 0.2, 0.5, 0.8, 0.8])
    # 16 is half-way from 4 to 64 as lists grow by factors.
    assert worth(scores.clone(), TWO, 16)[0].tolist() == pytest.approx([0.1, 0.25, 0.4, 0.65, 0.9, 0.9])
    assert worth(scores.clone(), None, 4)[0].tolist() == [0.0, 0.5, 1.0, 1.0, 1.0, 1.0]


@given(st.lists(shares, min_size=1, max_size=3), st.integers(1, 5000), st.lists(st.floats(0, 30, width=32), min_size=2))
def test_it_never_falls_and_stays_within_0_and_1(rows, words, scores):
    size = min(map(len, rows))
    curves = tuple(tuple(row[:size]) for row in rows)
    one = Calibration("w", {}, "none", "d", (5, 50, 500)[: len(rows)], tuple(0.5 * i for i in range(size)), curves)
    ordered = torch.tensor([sorted(scores)])
    for dtype in (torch.float32, torch.float16):
        found = one.apply(ordered.to(dtype), words)[0]
        assert found.dtype == dtype and 0 <= found.min() and found.max() <= 1
        assert (found.diff() >= -1e-6).all()


def test_maps_that_are_done_in_bands_are_those_that_are_done_at_once(monkeypatch):
    scores = torch.rand(37, 11) * 4
    whole = TWO.apply(scores.clone(), 7)
    monkeypatch.setattr("ovseg.labelling.calibration._PIXELS", 50)
    assert torch.equal(TWO.apply(scores.clone(), 7), whole)


@pytest.mark.parametrize(
    "changes",
    [
        {"right": ((0.2, 0.1, 1.0), (0.0, 0.2, 0.8))},
        {"right": ((0.2, 0.6, 1.1), (0.0, 0.2, 0.8))},
        {"right": ((0.2, 0.6, float("nan")), (0.0, 0.2, 0.8))},
        {"right": ((0.2, 0.6, 1.0),)},
        {"words": (64, 4)},
        {"words": (0, 4)},
        {"scores": (0.0, 0.0, 3.0)},
    ],
)
def test_what_is_no_monotone_curve(changes):
    with pytest.raises(WeightsError, match="expected ascending lengths"):
        replace(TWO, **changes)


def test_files(tmp_path):
    path = tmp_path / "x.calibration.json"
    TWO.write(path)
    assert Calibration.read(path).hash == TWO.hash != replace(TWO, weights="v").hash
    whole = json.loads(json.dumps(asdict(TWO)))
    for text in ("", "[]", "{}", json.dumps({**whole, "more": 1}), json.dumps({**whole, "right": 3})):
        path.write_text(text)
        with pytest.raises(WeightsError, match=r"x\.calibration\.json is no calibration .*; fit it anew"):
            Calibration.read(path)


def test_it_belongs_to_weights_and_settings():
    assert TWO.checked("w", {"a": {"b": 1}, "clip": "any name", "calibration": "x"}) is TWO
    with pytest.raises(ConfigError, match="weights w and the model has v; fit it"):
        TWO.checked("v", {"a": {"b": 1}})
    with pytest.raises(ConfigError, match=r"and other a\.b, c; fit it"):
        TWO.checked("w", {"a": {"b": 2}, "c": 0})


def test_a_threshold_that_is_not_compared_with_the_reported_score_is_said():
    policy = parse_background("threshold:0.4")
    assert said_of(TWO, policy) == ("threshold:0.4 is compared with the model's own scores, before calibration",)
    assert said_of(None, policy) == said_of(TWO, parse_background("none")) == ()


def test_curves_are_numbers_of_any_length():
    one = Calibration("w", {}, "none", "d", (5,), (0.5,), ((0.25,),))
    np.testing.assert_array_equal(one.apply(torch.rand(3, 2), 9), np.full((3, 2), 0.25, np.float32))
