"""``last.pt``: the state of a training, which goes on from it, and a checkpoint like any other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ovseg.errors import InputError, TrainingError, WeightsError
from ovseg.system.device import CPU
from ovseg.system.files import atomic_write


class RunState(NamedTuple):
    """What a training has saved.

    Attributes:
        step: Steps that were taken.
        steps: Steps of the whole run; 0 where an earlier version did not say.
        raw: All that is in the file.
    """

    step: int
    steps: int
    raw: dict[str, Any]

    @property
    def averaged(self) -> bool:
        """Whether the run keeps an average of its weights (``SOLVER.EMA``)."""
        return bool(self.raw.get("average"))

    @property
    def weights(self) -> dict[str, Tensor]:
        """The trained part of the model: the average where the run has one, as in validation and in its export."""
        state: dict[str, Tensor] = dict(self.raw["model"])
        return {key: self.raw.get("average", {}).get(key, value).to(value.dtype) for key, value in state.items()}

    def __str__(self) -> str:
        """Say how far it is, in words."""
        whole = f" of {self.steps}" if self.steps else ""
        return f"step {self.step}{whole}{', the average of its weights' if self.averaged else ''}"


def read_run_state(path: str | Path) -> RunState | None:
    """Read the state of a training without running code of the file; None for any other file."""
    return _read(path, mapped=False) if _read(path, mapped=True) else None


def peek(path: str | Path) -> RunState | None:
    """Read how far a training is and not its weights, which are to be left alone; None for any other file."""
    return _read(path, mapped=True)


def _read(path: str | Path, mapped: bool) -> RunState | None:
    """Read a state; mapped tensors cost nothing, and are lost if something writes into the file (not: replaces it)."""
    try:
        raw: Any = torch.load(path, map_location=CPU, weights_only=True, mmap=mapped)
    except Exception:  # no pickle, or broken; the reader of all checkpoints says so
        return None
    if not (isinstance(raw, Mapping) and {"step", "settings", "model", "optimizer"} <= raw.keys()):
        return None
    counts, parts = (raw["step"], raw.get("steps", 0)), (raw["model"], raw.get("average", {}))
    if not all(isinstance(count, int) for count in counts) or not all(map(_holds_tensors, parts)):
        return None  # of another program that has the same words for them
    return RunState(*counts, dict(raw))


def _holds_tensors(part: object) -> bool:
    return isinstance(part, Mapping) and all(isinstance(value, Tensor) for value in part.values())


def require_run_state(path: Path) -> RunState:
    """Read the state of a training.

    Raises:
        WeightsError: The file holds none.
    """
    found = read_run_state(path)
    if found is None:
        raise WeightsError(f"'{path}' is no checkpoint of a run, or is damaged; expected what `ovseg train` saves")
    return found


def save_run_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state in one step; what was there before stays until this one is whole.

    Raises:
        TrainingError: A weight is not finite.
        InputError: The file cannot be written.
    """
    require_finite(state["model"], path, state["step"])
    with atomic_write(path) as temporary:
        try:
            torch.save(dict(state), temporary)
        except RuntimeError as error:  # what PyTorch's writer makes of a full disk
            raise InputError(
                f"cannot write '{path}' ({' '.join(str(error).split())[:80]}); the file of before is kept: free some "
                "space and go on with --resume"
            ) from error


def require_finite(weights: Mapping[str, Tensor], path: Path, step: int) -> None:
    """Keep weights that are not finite away from a file that holds good ones.

    Raises:
        TrainingError: One is not; names the first.
    """
    for name, value in weights.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise TrainingError(
                f"after step {step} '{name}' is not finite, so '{path}' is not written, and what it held is kept; "
                "lower SOLVER.BASE_LR, or switch SOLVER.AMP off, and go on with --resume"
            )
