"""A few classes at a time, and layers that take guidance which all classes share."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
