"""States of trainings, and files of other programs that look like one at first sight."""

from __future__ import annotations

import pytest
import torch

from ovseg.checkpoint.loading import Weights
from ovseg.checkpoint.run_state import peek, read_run_state
from ovseg.errors import WeightsError

STATE = {"step": 3, "steps": 9, "settings": {}, "model": {"a": torch.zeros(2)}, "optimizer": {}, "average": {}}


def test_a_state_and_its_average(tmp_path):
    path = tmp_path / "last.pt"
    torch.save({**STATE, "average": {"a": torch.ones(2)}}, path)
    assert str(peek(path)) == "step 3 of 9, the average of its weights"
    assert Weights.read(path).state["a"].tolist() == [1, 1]
    torch.save({key: value for key, value in STATE.items() if key not in ("average", "steps")}, path)
    assert str(peek(path)) == "step 3" and Weights.read(path).state["a"].tolist() == [0, 0]


@pytest.mark.parametrize(
    "changes",
    [
        {"step": None},
        {"step": "abc"},
        {"step": torch.tensor([1, 2])},
        {"steps": "all"},
        {"model": torch.zeros(2)},
        {"model": {"a": "text"}},
        {"average": torch.ones(2)},
        {"average": None},
    ],
)
def test_what_another_program_calls_so_is_read_as_any_checkpoint(tmp_path, changes):
    path = tmp_path / "checkpoint.pt"
    torch.save({**STATE, **changes}, path)
    assert read_run_state(path) is None and peek(path) is None
    try:
        assert Weights.read(path).state["a"].tolist() == [0, 0]
    except WeightsError as error:
        assert "model" in changes and "\n" not in str(error)
