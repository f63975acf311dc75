"""The trained part of a model as a file."""

from __future__ import annotations

from pathlib import Path

import torch

from ovseg.checkpoint.trained import save_trained, trained_step


def test_the_same_weights_are_the_same_bytes(tmp_path: Path) -> None:
    """Runs are compared by the file that they leave: nothing in it may depend on chance."""
    state = {"b": torch.arange(3.0), "a": torch.ones(2, 2)}
    for number in range(12):
        save_trained(state, tmp_path / f"{number}.safetensors", 7)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
    assert trained_step(tmp_path / "0.safetensors") == 7


def test_a_file_that_does_not_say_its_step(tmp_path: Path) -> None:
    save_trained({"a": torch.ones(2)}, tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").write_bytes(b"broken")
    assert [trained_step(tmp_path / f"{name}.safetensors") for name in "abc"] == [None] * 3
