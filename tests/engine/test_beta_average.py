"""The Beta average: what each step counts, and a run that goes on has the very same."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from ovseg.engine.beta_average import BetaAverage, beta_weights
from ovseg.errors import ConfigError
from tests.engine.conftest import killed_at

BETA = {"BETA_AVERAGE": {"ENABLED": True, "BETA": 0.5}}


def test_both_ends_count_most_and_alike():
    weights = beta_weights(10, 0.5)
    torch.testing.assert_close(weights, weights.flip(0))
    assert weights.argmin() == 5 and (weights[:5].diff() < 0).all()
    torch.testing.assert_close(beta_weights(4, 1.0), torch.ones(5, dtype=torch.float64))


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
def test_the_average_is_the_weighted_mean(beta):
    model = nn.Linear(3, 2)
    average, seen = BetaAverage(model, 5, beta), [model.weight.detach().clone()]
    for step in range(5):
        with torch.no_grad():
            model.weight.add_(torch.randn(2, 3))
        average.update(model, step + 1)
        seen.append(model.weight.detach().clone())
    weights = beta_weights(5, beta).float()
    wanted = (torch.stack(seen) * (weights / weights.sum())[:, None, None]).sum(0)
    torch.testing.assert_close(average.values["weight"], wanted)


def test_killed_and_resumed_the_average_is_the_same(train, monkeypatch):
    whole = train("whole", **BETA)
    with monkeypatch.context() as patch:
        killed_at(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            train("part", **BETA)
    with pytest.raises(ConfigError, match=r"SOLVER\.MAX_ITER"):
        train("part", resume=True, MAX_ITER=9, **BETA)  # each step would have counted otherwise
    part = train("part", resume=True, **BETA)
    found, wanted = (load_file(folder / "model.safetensors") for folder in (part, whole))
    assert all(torch.equal(found[key], value) for key, value in wanted.items())
    plain = load_file(train("plain") / "model.safetensors")
    assert any(not torch.equal(plain[key], value) for key, value in wanted.items())


def test_what_cannot_be_averaged(train):
    with pytest.raises(ConfigError, match=r"BETA is 0\.0; expected a number above 0"):
        train("zero", BETA_AVERAGE={"ENABLED": True, "BETA": 0.0})
    with pytest.raises(ConfigError, match="both enabled"):
        train("both", EMA={"ENABLED": True}, **BETA)
