"""The loop: batches in, losses of the model out, one step of the optimizer; everything around it is a hook.

A run depends on its config and on the number of the step alone: the order of images and their changes (see
`ovseg.data.loader`), the random numbers of the model (seeded anew for every pass) and the learning rate. So a run that
was killed and goes on from its checkpoint takes the very steps that it would have taken.
"""

from __future__ import annotations

import contextlib
import logging
import random
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from detectron2.engine import TrainerBase
from detectron2.utils import comm
from torch import Tensor, nn

from ovseg.data.loader import Share, stream, training_batches
from ovseg.data.mappers import build_mapper
from ovseg.engine.checkpoints import Checkpoint, WeightAverage
from ovseg.engine.following import Following
from ovseg.engine.identity import Identity, run_settings, weight_hashes
from ovseg.engine.optimizer import (
    build_optimizer,
    check_schedule,
    clip_gradients,
    learning_rate_factor,
    trainable_parameters,
)
from ovseg.engine.run_data import RunData
from ovseg.errors import ConfigError, TrainingError
from ovseg.meta_arch.worded_model import WordedModel
from ovseg.system.device import is_cpu

if TYPE_CHECKING:
    from detectron2.config import CfgNode

AMP_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}

logging.getLogger("detectron2").addHandler(logging.NullHandler())  # it would print a traceback before our one line


class Trainer(TrainerBase):
    """One run on Detectron2's loop.

    Attributes:
        cfg: Its config.
        model: What is trained; in training mode it returns a dict of weighted losses.
        classes: The words that are learnt.
        identity: What the run is made of, by content.
        optimizer, scaler, average: As their names say; `average` is None without ``SOLVER.EMA``.
        checkpoint: Where its state is kept.
        metrics: Losses (means over the processes), ``lr``, ``grad_norm`` and ``data_seconds`` of the last step.
    """

    def __init__(
        self,
        cfg: CfgNode,
        model: WordedModel,
        data: RunData,
        checkpoint: Checkpoint,
        start: str | None = None,
        adopt: bool = False,
    ) -> None:
        """Start fresh, or from the checkpoint in the folder of the run.

        Args:
            cfg: The config.
            model: On its device, in the state that a run of this config starts from.
            data: What it is trained on.
            checkpoint: Of the folder of the run.
            start: Hash of the weights that the run has started from; None where the model still has them.
            adopt: Go on with a run that was made of something else.

        Raises:
            OvsegError: A value of the config cannot be used, or the folder holds another run.
        """
        super().__init__()
        self.cfg, self.model, self.classes = cfg, model, data.train[0].classes
        weights = weight_hashes(model, bool(cfg.MODEL.WEIGHTS))
        self.identity = Identity(
            run_settings(cfg), weights if start is None else {**weights, "start": start}, data.contents
        )
        worded = model.with_words(model.words(self.classes))
        model.start_training(worded.words)
        self.device = next(model.parameters()).device
        self.share = batch_share(cfg)
        self.optimizer = build_optimizer(model, cfg)
        self.parameters = list(trainable_parameters(model).values())
        self.dtype = amp_dtype(cfg, self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self.average = WeightAverage(model, cfg.SOLVER.EMA.DECAY) if cfg.SOLVER.EMA.ENABLED else None
        check_schedule(cfg)
        self.checkpoint, self.max_iter = checkpoint, cfg.SOLVER.MAX_ITER
        self.start_iter = checkpoint.load(self, adopt)
        view = model.samples() if isinstance(model, Following) else None
        self.mappers = [build_mapper(cfg, dataset, view) for dataset in data.train]
        self.replica = worded if self.share.world == 1 else _replicate(worded)
        self.metrics: dict[str, float] = {}

    def fit(self) -> None:
        """Train from where it stands to the last step.

        Raises:
            TrainingError: A loss or gradient is not finite, or a pass does not fit into memory.
            InputError: An image or its masks cannot be used.
        """
        self.model.train()
        self.batches = self._batches(self.start_iter)
        try:
            self.train(self.start_iter, self.max_iter)
        except torch.cuda.OutOfMemoryError as error:
            raise TrainingError(
                f"step {self.iter} does not fit into the memory of {self.device} with {self.share.batch} images per "
                f"pass; double SOLVER.ACCUMULATE, which keeps the batch of {self.cfg.SOLVER.IMS_PER_BATCH}"
            ) from error

    def _batches(self, step: int) -> Iterator[list[dict[str, Any]]]:
        start = step * self.cfg.SOLVER.ACCUMULATE
        return training_batches(self.mappers, self.share, self.cfg.SEED, start, self.cfg.DATALOADER.NUM_WORKERS)

    def sample(self) -> list[dict[str, Any]]:
        """Return a batch of one image, to try the model with."""
        return [self.mappers[0](0, stream(self.cfg.SEED))]

    def run_step(self) -> None:
        """Take one step: ``SOLVER.ACCUMULATE`` passes, then the optimizer.

        Raises:
            TrainingError: A loss or gradient is not finite.
            InputError: An image or its masks cannot be used.
        """
        factor, passes = learning_rate_factor(self.cfg, self.iter), self.cfg.SOLVER.ACCUMULATE
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        totals: dict[str, float] = {}
        waited = 0.0
        for number in range(passes):
            start = time.perf_counter()
            batch = next(self.batches)
            waited += time.perf_counter() - start
            seed_everything(self.cfg.SEED, self.iter, number, self.share.rank)  # behind the loader, which draws too
            losses = self._learn(batch, passes, last=number == passes - 1)
            totals = {name: totals.get(name, 0.0) + value / passes for name, value in losses.items()}
        norm = self._step()
        if self.average:
            self.average.update(self.model)
        if isinstance(self.model, Following):
            self.model.after_step(self.iter, self.max_iter)
        rate = self.cfg.SOLVER.BASE_LR * factor
        self.metrics = {**totals, "lr": rate, "grad_norm": norm, "data_seconds": waited}
        self.storage.put_scalars(**self.metrics)

    def _learn(self, batch: list[dict[str, Any]], passes: int, last: bool) -> dict[str, float]:
        """Add the gradients of one pass; returns its losses, means over the processes."""
        wait = contextlib.nullcontext() if last or self.share.world == 1 else self.replica.no_sync()  # type: ignore
        with wait:
            with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
                try:
                    losses: dict[str, Tensor] = self.replica(batch)
                except FloatingPointError as error:
                    raise self._not_finite(str(error), batch) from error
            values = mean_over_processes({name: loss.detach() for name, loss in losses.items()})
            if not np.isfinite(list(values.values())).all():
                raise self._not_finite(
                    ", ".join(f"{k} {v:.4g}" for k, v in values.items() if not np.isfinite(v)), batch
                )
            self.scaler.scale(torch.stack(list(losses.values())).sum() / passes).backward()
        return values

    def _step(self) -> float:
        """Clip the gradients and move the parameters; returns the norm of all gradients before."""
        self.scaler.unscale_(self.optimizer)
        norm = float(clip_gradients(self.parameters, self.cfg))
        if (
            not np.isfinite(norm) and not self.scaler.is_enabled()
        ):  # with a scaler the step is left out, as it should be
            raise self._not_finite(f"norm of the gradients {norm}", [])
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def _not_finite(self, terms: str, batch: list[dict[str, Any]]) -> TrainingError:
        images = "; images " + ", ".join(str(entry["file_name"]) for entry in batch[:4]) if batch else ""
        kept = f"the checkpoint of step {self.checkpoint.step} is kept" if self.checkpoint.step else "nothing was saved"
        return TrainingError(
            f"training stopped at step {self.iter}, not finite: {terms}{images}; {kept} "
            f"in '{self.checkpoint.path.parent}'; lower SOLVER.BASE_LR, or switch SOLVER.AMP off"
        )

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Let the model have for a while the weights that the training leaves: averaged, or finished by the model."""
        with self.average.applied(self.model) if self.average else contextlib.nullcontext():
            with self.model.finished() if isinstance(self.model, Following) else contextlib.nullcontext():
                yield


def batch_share(cfg: CfgNode) -> Share:
    """Split the batch of a step over processes and passes.

    Raises:
        ConfigError: It cannot be split evenly.
    """
    world, passes, batch = comm.get_world_size(), cfg.SOLVER.ACCUMULATE, cfg.SOLVER.IMS_PER_BATCH
    if passes < 1 or batch < 1 or batch % (world * passes):
        raise ConfigError(
            f"SOLVER.IMS_PER_BATCH {batch} over {world} processes and SOLVER.ACCUMULATE {passes} passes; expected a "
            f"multiple of {world * max(passes, 1)}"
        )
    return Share(batch // (world * passes), comm.get_rank(), world)


def amp_dtype(cfg: CfgNode, device: torch.device) -> torch.dtype:
    """Return the type of autocast: float32 for none; CPUs have no float16 there.

    Raises:
        ConfigError: It is another one.
    """
    node = cfg.SOLVER.AMP
    if node.DTYPE not in AMP_DTYPES:
        raise ConfigError(f"SOLVER.AMP.DTYPE is '{node.DTYPE}'; expected fp16 or bf16")
    if not node.ENABLED:
        return torch.float32
    return torch.bfloat16 if is_cpu(device) else AMP_DTYPES[node.DTYPE]


def seed_everything(seed: int, *place: int) -> None:
    """Seed all random numbers that a model may draw; `place` says where in the run it stands."""
    number = int(stream(seed, 2, *place).integers(2**32))
    torch.manual_seed(number)
    np.random.seed(number)
    random.seed(number)


def mean_over_processes(values: dict[str, Tensor]) -> dict[str, float]:
    """Return the means of scalars over all processes, with one transfer."""
    stacked = torch.stack([value.float() for value in values.values()])
    if comm.get_world_size() > 1:
        dist.all_reduce(stacked)
        stacked = stacked / comm.get_world_size()
    return dict(zip(values, stacked.tolist(), strict=True))


def _replicate(model: nn.Module) -> nn.Module:
    """Wrap a model so that gradients are means over the processes; not every step needs every parameter."""
    from torch.nn.parallel import DistributedDataParallel

    return DistributedDataParallel(model, broadcast_buffers=False, find_unused_parameters=True)
