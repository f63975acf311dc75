"""What happens around the steps: logs, validation, checkpoints. In this order, so that a checkpoint comes last."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections import deque
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from detectron2.engine import HookBase
from detectron2.utils import comm

from ovseg.data.dataset import INSTANCE, PANOPTIC, SEMANTIC, Dataset
from ovseg.engine.validation import Scores, validate
from ovseg.evaluation.reports.page import percent
from ovseg.evaluation.runs.measures import PROMPT, REFERRING
from ovseg.system.device import peak_memory
from ovseg.system.files import rewind

if TYPE_CHECKING:
    from ovseg.engine.trainer import Trainer

WINDOW = 50  # steps, of which the time of a step is the median
QUIET = ("lr", "grad_norm", "data_seconds")
BESIDES = (
    (PANOPTIC, "pq", "PQ"),
    (INSTANCE, "ap", "AP"),
    (PROMPT, "miou", "mIoU of prompts"),
    (REFERRING, "overall_iou", "oIoU"),
)
"""What the line of a validation says beside the semantic numbers: task, name and text."""

log = logging.getLogger("ovseg.train")


def start_log(folder: Path) -> None:
    """Let the log go to the terminal and to ``log.txt``; of the first process only."""
    log.setLevel(logging.INFO if comm.is_main_process() else logging.ERROR)
    log.propagate = False
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()
    if comm.is_main_process():
        for handler in (logging.StreamHandler(sys.stdout), logging.FileHandler(folder / "log.txt", encoding="utf-8")):
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
            log.info("no TensorBoard here (pip install tensorboard); log.jsonl has the same numbers")

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
        self.write({"loss": sum(losses.values()), **trainer.metrics, "seconds": self.seconds[-1]})
        done = trainer.iter + 1
        if done % trainer.cfg.SOLVER.LOG_PERIOD == 0 or done == trainer.max_iter:
            log.info(self._line(losses))

    def write(self, row: dict[str, float]) -> None:
        """Write numbers of the current step."""
        if not comm.is_main_process():
            return
        step = self.trainer.iter
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **row}) + "\n")
        for key, value in row.items() if self.board else ():
            self.board.add_scalar(key, value, step)

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
        if self.board:
            self.board.close()


class Validation(HookBase):
    """Evaluates on ``DATASETS.TEST`` every ``TEST.EVAL_PERIOD`` steps and after the last one."""

    trainer: Trainer

    def __init__(self, datasets: list[Dataset], log_hook: Log) -> None:
        """Keep the data sets; results go to the log."""
        self.datasets, self.log = datasets, log_hook

    def after_step(self) -> None:
        """Evaluate when it is time."""
        done, period = self.trainer.iter + 1, self.trainer.cfg.TEST.EVAL_PERIOD
        if not self.datasets or not (done == self.trainer.max_iter or (period > 0 and done % period == 0)):
            return
        with self.trainer.averaged():
            found = validate(self.trainer.model, self.datasets)
        for name, scores in found.items():
            report(name, scores)
            self.log.write({f"{name}/{key}": value for key, value in flat(scores).items()})


class Save(HookBase):
    """Writes the checkpoint every ``SOLVER.CHECKPOINT_PERIOD`` steps and after the last one."""

    trainer: Trainer

    def after_step(self) -> None:
        """Save when it is time; the other processes wait, so that no one is a step ahead of what is saved."""
        trainer, done = self.trainer, self.trainer.iter + 1
        if done == trainer.max_iter or done % trainer.cfg.SOLVER.CHECKPOINT_PERIOD == 0:
            if comm.is_main_process():
                trainer.checkpoint.save(trainer, done)
            trainer.checkpoint.step = done
            comm.synchronize()


def flat(scores: Scores) -> dict[str, float]:
    """Return what was measured of a data set by one name each: ``miou_present``, ``panoptic/pq``, ``instance/ap``."""
    return {
        name if task == SEMANTIC else f"{task}/{name}": value
        for task, numbers in scores.items()
        for name, value in numbers.items()
        if value is not None
    }


def report(name: str, scores: Scores) -> None:
    """Log the scores of a data set."""
    said = []
    if semantic := scores.get(SEMANTIC):
        present, every, pixels = (percent(semantic[key], 2) for key in ("miou_present", "miou_all", "pixel_accuracy"))
        said.append(f"mIoU {present} over the {semantic['present']} classes present, {every} over all")
        said[-1] += f" {semantic['total']}; pixel accuracy {pixels}"
    said += [f"{text} {percent(scores[task][key], 2)}" for task, key, text in BESIDES if task in scores]
    log.info(f"{name}: {'; '.join(said) or 'nothing was measured'}")
