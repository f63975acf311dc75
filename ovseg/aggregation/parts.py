"""A few classes at a time, and layers that take guidance which all classes share."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovseg.system.device import is_cpu

BUSY = 32
"""So many times as many classes are taken at a time on an accelerator as on a CPU."""


def step_of(step: int) -> int:
    """Return how many classes are taken at a time: 0, for all, where something is learnt or a graph is captured."""
    return 0 if torch.is_grad_enabled() or torch.compiler.is_compiling() else step


def parts_of(x: Tensor, step: int) -> tuple[Tensor, ...]:
    """Return parts of so many classes of maps (T, ...); all of them at once where ``step`` is 0."""
    return x.split(step) if step else (x,)


def few_at_a_time(run: Callable[..., Tensor], step: int, x: Tensor, *others: Tensor | None) -> Tensor:
    """Run what maps (t, ...) to (t, ...) on a few classes at a time, so that what it needs on its way stays small.

    Args:
        run: Takes a part of ``x`` and of each of the others.
        step: Classes at a time; 0 for all at once.
        x: (T, ...); it is overwritten where nothing is learnt and shapes stay.
        others: (T, ...) each, or None.
    """
    if not step or torch.is_grad_enabled():
        return run(x, *others)
    for start in range(0, len(x), step):
        part = slice(start, start + step)
        x[part] = run(x[part], *(None if one is None else one[part] for one in others))
    return x


def made_in_parts(run: Callable[..., Tensor], step: int, *inputs: Tensor) -> Tensor:
    """Run what maps (t, ...) to (t, ...) of any shape on a few classes at a time, and put its results into one tensor.

    Nothing is held twice, as lists of results are while they are joined.

    Args:
        run: Takes a part of each of the inputs.
        step: Classes at a time; 0 for all at once.
        inputs: (T, ...) each; they stay as they are.
    """
    if not step:
        return run(*inputs)
    parts = zip(*(parts_of(one, step) for one in inputs), strict=True)
    first = run(*next(parts))
    if len(first) == len(inputs[0]):
        return first
    found = first.new_empty(len(inputs[0]), *first.shape[1:])
    found[: len(first)] = first
    done = len(first)
    for part in parts:
        own = run(*part)
        found[done : done + len(own)] = own
        done += len(own)
    return found


def on_device(step: int, device: torch.device) -> int:
    """Return how many classes are taken at a time on a device, given how many on a CPU, whose caches hold their maps.

    An accelerator is kept busy by more, and waits for each part.
    """
    return step if is_cpu(device) else step * BUSY


def in_full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Leave autocast, where it is on; a graph that is captured without it has no trace of this."""
    on = torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, enabled=False) if on else nullcontext()


def shared_linear(x: Tensor, layers: tuple[nn.Linear, ...], guidance: Tensor | None) -> Tensor:
    """Run linear layers on x and guidance side by side, without putting them so: (..., C) to (..., sum of outputs).

    A layer that is as wide as x alone takes no guidance. Guidance meets its part of the weights once, however many of
    x share it.

    Args:
        x: (..., C).
        layers: With biases.
        guidance: (..., G), to be broadcast against x; None for none.
    """
    width, shifts = x.shape[-1], []
    for layer in layers:
        shift: Tensor = layer.bias
        if guidance is not None:
            led = layer.in_features > width
            rows = guidance.shape[:-1]
            shift = F.linear(guidance, layer.weight[:, width:], shift) if led else shift.expand(*rows, -1)
        shifts.append(shift)
    return F.linear(x, torch.cat([layer.weight[:, :width] for layer in layers])) + torch.cat(shifts, -1)
