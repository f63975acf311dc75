"""The state of a run on disk: written in one step, read back after an interruption at any moment."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import torch
from detectron2.utils import comm
from torch import Tensor, nn

from ovseg.checkpoint.run_files import LAST, MODEL
from ovseg.checkpoint.run_state import RunState, require_run_state, save_run_state
from ovseg.checkpoint.trained import load_trained_state, trained_state
from ovseg.engine.identity import Identity
from ovseg.engine.optimizer import trainable_parameters
from ovseg.engine.pace import log
from ovseg.errors import ConfigError, InputError, WeightsError
from ovseg.system.files import check_writable


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
        self.values = self.start(model)

    @staticmethod
    def start(model: nn.Module) -> dict[str, Tensor]:
        """Return the average of a model that is not trained yet: its parameters by name."""
        return {name: value.detach().float().clone() for name, value in trainable_parameters(model).items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move towards the parameters that the model has after so many steps."""
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
    max_iter: int
    identity: Identity


class Checkpoint:
    """``last.pt`` in the folder of a run.

    Attributes:
        folder: Of the run.
        before: The state that the run goes on from; None for a new run.
        step: Steps after which it was saved last.
        adopted: What has changed in what the run is made of, and was accepted.
    """

    def __init__(self, folder: str, resume: bool = False) -> None:
        """Make the folder, and look for a run in it.

        Args:
            folder: Of the run.
            resume: Whether the user asked to go on; without, a folder that holds a run is refused.

        Raises:
            InputError: It cannot be written to, or holds a run or a model.
            WeightsError: It holds a checkpoint that is broken.
        """
        self.folder, self.step = check_writable(folder), 0
        self.path, self.adopted = self.folder / LAST, list[str]()
        self.before: RunState | None = None
        if self.path.exists():
            self.before = require_run_state(self.path)
            self.step = self.before.step
            if not resume:
                raise InputError(
                    f"'{folder}' holds a run at step {self.step}; go on with --resume, or choose another OUTPUT_DIR"
                )
        elif (self.folder / MODEL).exists():
            raise InputError(f"'{folder}' holds a model and no run to go on with; choose another OUTPUT_DIR")

    @property
    def seed(self) -> int | None:
        """The seed of the run that goes on; None for a new one."""
        return None if self.before is None else int(json.loads(self.before.raw["settings"]["SEED"]))

    def own_start(self, config: Path, weights: str) -> str | None:
        """Return the hash of the weights that the run started from, where its own folder is what the user goes on by.

        The config there no longer says which they were, and the weights there are those of the run itself.

        Args:
            config: That the run goes on with.
            weights: ``MODEL.WEIGHTS``.
        """
        if self.before is None or "weights" not in self.before.raw:
            return None
        places = (config.parent, Path(weights).parent) if weights else (config.parent,)
        own = any(place.resolve() == self.folder.resolve() for place in places)
        return str(self.before.raw["weights"]["start"]) if own else None

    def save(self, trainer: Run, step: int) -> None:
        """Write the state after `step` steps; the one before stays until this one is whole.

        Raises:
            TrainingError: A weight is not finite; the file of before is kept.
            InputError: It cannot be written; likewise.
        """
        state = {
            "step": step,
            "steps": trainer.max_iter,
            **trainer.identity.saved(),
            "model": trained_state(trainer.model),
            "optimizer": trainer.optimizer.state_dict(),
            "scaler": trainer.scaler.state_dict(),
            "average": trainer.average.values if trainer.average else {},
        }
        save_run_state(self.path, state)
        self.step = step

    def load(self, trainer: Run, adopt: bool = False) -> int:
        """Go on where the run in the folder stopped.

        Args:
            trainer: To be filled.
            adopt: Go on although the run was made of something else; what has changed is in the log.

        Returns:
            The number of steps that were taken; 0 for a new run.

        Raises:
            ConfigError: The run was made of something else, and `adopt` is not set.
            WeightsError: The file does not fit.
        """
        if self.before is None:
            return 0
        changes = trainer.identity.changes(self.before.raw, self.folder)
        for line in changes:
            log.info(f"{'adopted' if adopt else 'changed'}: {line}")
        if changes and not adopt:
            more = f" (and {len(changes) - 3} more, see above)" if changes[3:] else ""
            raise ConfigError(
                f"the run in '{self.folder}' was made of something else: {'; '.join(changes[:3])}{more}; choose "
                "another OUTPUT_DIR (--output), or go on all the same with --resume --adopt"
            )
        self.adopted = changes
        self._fill(trainer, self.before)
        if changes and comm.is_main_process():
            self.save(trainer, self.step)
            trainer.identity.write(self.folder)
        return self.step

    def _fill(self, trainer: Run, state: RunState) -> None:
        load_trained_state(trainer.model, state.raw["model"], str(self.path))
        try:
            trainer.optimizer.load_state_dict(state.raw["optimizer"])
        except (ValueError, KeyError) as error:
            raise WeightsError(
                f"the optimizer of '{self.path}' does not fit this config ({error}); choose another OUTPUT_DIR, and "
                f"start from its weights with MODEL.WEIGHTS {self.path}"
            ) from error
        trainer.scaler.load_state_dict(state.raw["scaler"])
        if trainer.average:
            kept = state.raw["average"] or trainer.average.start(trainer.model)
            trainer.average.values = {key: value.to(trainer.device) for key, value in kept.items()}
