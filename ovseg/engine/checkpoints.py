"""The state of a run on disk: written in one step, read back after an interruption at any moment."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from ovseg.checkpoint.pickles import read_pickle
from ovseg.checkpoint.trained import load_trained_state, trained_state
from ovseg.config import new_key
from ovseg.engine.optimizer import trainable_parameters
from ovseg.errors import ConfigError, InputError, WeightsError
from ovseg.system.files import atomic_write, check_writable

if TYPE_CHECKING:
    from detectron2.config import CfgNode


# What may differ between the parts of one run.
FREE = ("MODEL.DEVICE", "SOLVER.MAX_ITER", "SOLVER.CHECKPOINT_PERIOD", "SOLVER.LOG_PERIOD")


class WeightAverage:
    """Exponential moving average of the trainable parameters, in float32."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Start from the model as it is.

        Raises:
            ConfigError: The decay is not in 0..1.
        """
        if not 0 <= decay < 1:
            raise ConfigError(f"SOLVER.EMA.DECAY is {decay}; expected at least 0 and less than 1")
        self.decay = decay
        self.values = {name: value.detach().float().clone() for name, value in trainable_parameters(model).items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move towards the model's parameters."""
        for name, value in trainable_parameters(model).items():
            self.values[name].lerp_(value.float(), 1 - self.decay)

    @contextlib.contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Put the averages into the model for a while."""
        parameters = trainable_parameters(model)
        kept = {name: value.detach().clone() for name, value in parameters.items()}
        try:
            _fill(parameters, self.values)
            yield
        finally:
            _fill(parameters, kept)


@torch.no_grad()
def _fill(parameters: dict[str, nn.Parameter], values: dict[str, Tensor]) -> None:
    for name, parameter in parameters.items():
        parameter.copy_(values[name])


class Run(Protocol):
    """What is saved of a training."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: WeightAverage | None
    device: torch.device


class Checkpoint:
    """``last.pt`` in the folder of a run."""

    def __init__(self, folder: str, settings: dict[str, str]) -> None:
        """Make the folder.

        Args:
            folder: Of the run.
            settings: What the run depends on, see `run_settings`.

        Raises:
            InputError: It cannot be written to.
        """
        self.path = check_writable(folder) / "last.pt"
        self.settings, self.step = settings, 0

    def save(self, trainer: Run, step: int) -> None:
        """Write the state after `step` steps; the one before stays until this one is whole."""
        state = {
            "step": step,
            "settings": self.settings,
            "model": trained_state(trainer.model),
            "optimizer": trainer.optimizer.state_dict(),
            "scaler": trainer.scaler.state_dict(),
            "average": trainer.average.values if trainer.average else {},
        }
        with atomic_write(self.path) as temporary:
            torch.save(state, temporary)
        self.step = step

    def load(self, trainer: Run, resume: bool) -> int:
        """Go on where the run in the folder stopped.

        Args:
            trainer: To be filled.
            resume: Whether the user asked for it; without, a folder that holds a run is refused.

        Returns:
            The number of steps that were taken; 0 for a new run.

        Raises:
            InputError: The folder holds a run and `resume` was not asked for.
            ConfigError: It holds a run with other settings.
            WeightsError: The file is broken or does not fit.
        """
        if not self.path.exists():
            return 0
        try:
            saved: dict[str, Any] = read_pickle(self.path)
            self.step = int(saved["step"])
        except Exception as error:  # pickle raises whatever comes
            raise WeightsError(
                f"'{self.path}' is no checkpoint of a run ({error}); choose another OUTPUT_DIR"
            ) from error
        folder = self.path.parent
        if not resume:
            raise InputError(
                f"'{folder}' holds a run at step {self.step}; go on with --resume, or choose another OUTPUT_DIR"
            )
        begun = {new_key(key): value for key, value in saved["settings"].items()}
        for key, value in self.settings.items():
            if (before := begun.get(key)) != value:
                raise ConfigError(
                    f"{key} is {value} but the run in '{folder}' has {before}; use that, or choose another OUTPUT_DIR"
                )
        load_trained_state(trainer.model, saved["model"], str(self.path))
        trainer.optimizer.load_state_dict(saved["optimizer"])
        trainer.scaler.load_state_dict(saved["scaler"])
        if trainer.average:
            trainer.average.values = {key: value.to(trainer.device) for key, value in saved["average"].items()}
        return self.step


def run_settings(cfg: CfgNode) -> dict[str, str]:
    """Return what a run depends on by dotted key, as JSON."""
    wanted = ("MODEL", "INPUT", "SOLVER", "SEED", "DATASETS.TRAIN", "DATASETS.VOCABULARY")
    found = {}
    for key, value in _flat(cfg):
        if key.startswith(wanted) and key not in FREE:
            found[key] = json.dumps(value, default=str)
    return found


def _flat(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if hasattr(value, "items"):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
