from __future__ import annotations

import pytest
import torch

from ovseg.checkpoint.files import read_part, read_state_dict
from ovseg.errors import WeightsError


def test_a_part_of_a_training_checkpoint(tmp_path):
    torch.save({"model": {"a": torch.ones(2)}, "iteration": 7}, tmp_path / "whole.pth")
    assert read_part(tmp_path / "whole.pth", "model").keys() == {"a"}
    torch.save({"a": torch.ones(2)}, tmp_path / "bare.pth")
    assert read_part(tmp_path / "bare.pth", "model").keys() == {"a"}


@pytest.mark.parametrize("state", [{"a": torch.ones(2), "b": "words"}, {"a": {"b": torch.ones(2)}}])
def test_what_is_no_tensor_is_named(tmp_path, state):
    torch.save({"model": state}, tmp_path / "part.pth")
    torch.save(state, tmp_path / "bare.pth")
    for read in (lambda: read_part(tmp_path / "part.pth", "model"), lambda: read_state_dict(tmp_path / "bare.pth")):
        with pytest.raises(WeightsError, match=r"\.pth holds '[ab]', which is no tensor; expected a state dict"):
            read()
