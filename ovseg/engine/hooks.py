"""What happens around the steps: the log, checkpoints, validation. In this order: work is kept before it is judged."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections import deque
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from detectron2.engine import HookBase
from detectron2.utils import comm

from ovseg.checkpoint.trained import trained_state
from ovseg.engine.exporting import write_model
from ovseg.engine.following import Following
from ovseg.engine.pace import log
from ovseg.engine.run_data import TestSet
from ovseg.engine.validation import validate
from ovseg.errors import InputError
from ovseg.system.device import peak_memory
from ovseg.system.files import rewind

if TYPE_CHECKING:
    from ovseg.engine.trainer import Trainer

WINDOW = 50  # steps, of which the time of a step is the median
QUIET = ("lr", "grad_norm", "data_seconds")


class _File(logging.FileHandler):
    """``log.txt``; a disk that is full costs its lines and one on the terminal, and not the training."""

    def handleError(self, record: logging.LogRecord) -> None:  # Python's own name
        """Say once that the file lacks lines from here on."""
        log.removeHandler(self)
        log.warning(
            f"'{self.baseFilename}' cannot be written to ({sys.exc_info()[1]}); its lines go to the terminal alone"
        )


def start_log(folder: Path) -> None:
    """Let the log go to the terminal and to ``log.txt``; of the first process only."""
    log.setLevel(logging.INFO if comm.is_main_process() else logging.ERROR)
    log.propagate = False
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()
    if comm.is_main_process():
        for handler in (logging.StreamHandler(sys.stdout), _File(folder / "log.txt", encoding="utf-8")):
            handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
            log.addHandler(handler)


class Log(HookBase):
    """Writes every step to ``log.jsonl`` and TensorBoard, and a line for people every ``SOLVER.LOG_PERIOD`` steps."""

    trainer: Trainer

    def __init__(self, folder: Path, start: int) -> None:
        """Drop what an interrupted run wrote after its checkpoint.

        Args:
            folder: Of the run.
            start: First step.
        """
        self.path, self.seconds, self.since = folder / "log.jsonl", deque[float](maxlen=WINDOW), 0.0
        self.board: Any = None
        if not comm.is_main_process():
            return
        rewind(self.path, start)
        try:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=start)
        except ImportError:
            log.info("no TensorBoard here (pip install 'ovseg[train]'); log.jsonl has the same numbers")
        except Exception as error:  # nobody should lose a training by a second log
            self._no_board(error)

    def before_step(self) -> None:
        """Start the clock."""
        self.since = time.perf_counter()

    def after_step(self) -> None:
        """Write the step."""
        if not comm.is_main_process():
            return
        trainer = self.trainer
        self.seconds.append(time.perf_counter() - self.since)
        losses = {key: value for key, value in trainer.metrics.items() if key not in QUIET}
        self.write({"loss": sum(losses.values()), **trainer.metrics, "seconds": self.seconds[-1]}, trainer.iter)
        done = trainer.iter + 1
        if done % trainer.cfg.SOLVER.LOG_PERIOD == 0 or done == trainer.max_iter:
            log.info(self._line(losses))

    def write(self, row: dict[str, float], step: int) -> None:
        """Write numbers of a step.

        Raises:
            InputError: ``log.jsonl`` cannot be written to.
        """
        if not comm.is_main_process():
            return
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **row}) + "\n")
        except OSError as error:
            raise InputError(
                f"cannot write '{self.path}' ({error.strerror or error}); the checkpoint of step "
                f"{self.trainer.checkpoint.step} is kept: free some space and go on with --resume"
            ) from error
        try:
            for key, value in row.items() if self.board else ():
                self.board.add_scalar(key, value, step)
        except Exception as error:
            self._no_board(error)

    def _no_board(self, error: Exception) -> None:
        self.board = None
        log.info(
            f"TensorBoard is left out from here on ({' '.join(str(error).split())}); log.jsonl has the same numbers"
        )

    def validated(self, step: int) -> bool:
        """Tell whether the numbers of a validation behind a step are in the log."""
        if not self.path.is_file():
            return False
        rows = map(json.loads, self.path.read_text(encoding="utf-8").splitlines())
        return any(row["step"] == step and "loss" not in row for row in rows)

    def _line(self, losses: dict[str, float]) -> str:
        trainer, metrics = self.trainer, self.trainer.metrics
        seconds, done = median(self.seconds), trainer.iter + 1
        left = timedelta(seconds=round(seconds * (trainer.max_iter - done)))
        parts = ", ".join(f"{key.removeprefix('loss_')} {value:.3f}" for key, value in losses.items())
        return (
            f"step {done}/{trainer.max_iter}  loss {sum(losses.values()):.3f} ({parts})  lr {metrics['lr']:.2e}  "
            f"grad {metrics['grad_norm']:.3g}  {seconds:.3f} s/step ({metrics['data_seconds']:.3f} data)  eta {left}  "
            f"memory {peak_memory(trainer.device) / 2**30:.2f} GiB"
        )

    def after_train(self) -> None:
        """Close TensorBoard's file."""
        try:
            if self.board:
                self.board.close()
        except Exception as error:
            self._no_board(error)


class Save(HookBase):
    """Writes the checkpoint every ``SOLVER.CHECKPOINT_PERIOD`` steps and after the last one, and then the model."""

    trainer: Trainer

    def before_train(self) -> None:
        """Write the model of a run that has all its steps already."""
        if self.trainer.start_iter >= self.trainer.max_iter:
            self._export(self.trainer.start_iter)

    def after_step(self) -> None:
        """Save when it is time; the other processes wait, so that no one is a step ahead of what is saved."""
        trainer, done = self.trainer, self.trainer.iter + 1
        if done == trainer.max_iter or done % trainer.cfg.SOLVER.CHECKPOINT_PERIOD == 0:
            if comm.is_main_process():
                trainer.checkpoint.save(trainer, done)
            trainer.checkpoint.step = done
            if done == trainer.max_iter:
                self._export(done)
            comm.synchronize()

    def _export(self, step: int) -> None:
        trainer, folder = self.trainer, self.trainer.checkpoint.folder
        if comm.is_main_process():
            with trainer.averaged():
                write_model(trained_state(trainer.model), step, folder)
                if isinstance(trainer.model, Following):
                    trainer.model.leave(folder)
            log.info(f"the model is in '{folder}'")


class Validation(HookBase):
    """Evaluates on ``DATASETS.TEST`` every ``TEST.EVAL_PERIOD`` steps and after the last one."""

    trainer: Trainer

    def __init__(self, tests: Sequence[TestSet], log_hook: Log) -> None:
        """Keep the data sets; results go to the log."""
        self.tests, self.log = tests, log_hook

    def before_train(self) -> None:
        """Make up for the validation that a kill has cut off behind the checkpoint that the run goes on from."""
        start = self.trainer.start_iter
        missed = bool(start) and self._due(start) and not self.log.validated(start - 1)
        if comm.all_gather(missed)[0]:  # the first process has the log
            self._validate(start - 1)

    def after_step(self) -> None:
        """Evaluate when it is time."""
        if self._due(self.trainer.iter + 1):
            self._validate(self.trainer.iter)

    def _due(self, done: int) -> bool:
        period = self.trainer.cfg.TEST.EVAL_PERIOD
        return bool(self.tests) and (done >= self.trainer.max_iter or (period > 0 and done % period == 0))

    def _validate(self, step: int) -> None:
        with self.trainer.averaged():
            found = validate(self.trainer.model, self.tests)
        row: dict[str, Any] = {}
        for name, outcome in found.items():
            log.info(outcome.line(name))
            row |= {f"{name}/{key}": value for key, value in outcome.flat().items()}
        if found:
            self.log.write(row, step)
