"""What a run will need, said before its first step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ovseg.system.device import memory_in_use

if TYPE_CHECKING:
    from ovseg.engine.trainer import Trainer

GIB = 2**30


def describe(trainer: Trainer) -> list[str]:
    """Return lines on parameters, data, the effective batch and the memory that each process is expected to need.

    One image goes through the model for it: what autograd keeps of it is counted, and taken times the batch.
    """
    trainable = sum(parameter.numel() for parameter in trainer.parameters)
    total = sum(parameter.numel() for parameter in trainer.model.parameters())
    share, passes = trainer.share, trainer.cfg.SOLVER.ACCUMULATE
    images = sum(len(mapper.dataset.records) for mapper in trainer.mappers)
    held = memory_in_use(trainer.device)
    copies = 3 + bool(trainer.average)  # gradient, two moments, average
    activations = saved_bytes(trainer) * share.batch
    needed = held + 4 * copies * trainable + activations
    batch = share.batch * share.world * passes
    name = type(trainer.model).__name__
    return [
        f"{name}: {trainable / 1e6:.3f} M parameters are trained, {(total - trainable) / 1e6:.3f} M are frozen",
        f"data: {images} images, {len(trainer.classes)} classes, {trainer.max_iter * batch / images:.1f} epochs",
        f"batch: {batch} = {share.world} processes x {passes} passes x {share.batch} images",
        f"expected memory per process: {needed / GIB:.2f} GiB (in use now {held / GIB:.2f}, gradients and optimizer "
        f"{4 * copies * trainable / GIB:.2f}, one pass {activations / GIB:.2f}); device {trainer.device}, "
        f"{str(trainer.dtype).removeprefix('torch.')}",
    ]


def saved_bytes(trainer: Trainer) -> int:
    """Count the bytes that a pass of one image keeps for its gradients, parameters apart."""
    known = {value.untyped_storage().data_ptr() for value in trainer.model.state_dict().values()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    trainer.model.train()
    with (
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
        torch.autocast(trainer.device.type, trainer.dtype, enabled=trainer.dtype != torch.float32),
    ):
        losses = trainer.replica(trainer.sample())  # held until all is counted: freed memory would be counted once
        del losses
    return sum(kept.values())
