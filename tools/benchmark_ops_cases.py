"""The operators that `benchmark_ops` measures: on what, beside which plain PyTorch baseline, within which limits.

A new one is a function that makes the inputs and returns both calls, and a row of `CASES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ovseg.ops import mask_pool

Call = Callable[[], Any]


def largest_difference(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference of two results."""
    return (found.double() - expected.double()).abs().max().item()


@dataclass(frozen=True)
class OpCase:
    """An operator on one size of inputs.

    Attributes:
        name: What it is called in the table and for ``--only``: the operator's name, and ``:SIZE`` where it has
            several cases.
        sizes: On what, in words.
        baseline: What it is compared with, in words.
        prepare: Makes the inputs on a device; returns the call of ours and that of the baseline.
        bytes: That inputs and outputs take: what must at least be read and written.
        flops: Of the matrix product or sums that must at least be done.
        speedup: Least ratio of the baseline's time to ours on the CPU.
        memory: Largest share of the baseline's extra memory on the CPU.
        tolerance: Largest allowed ``error``.
        error: Compares ours with the baseline's result.
    """

    name: str
    sizes: str
    baseline: str
    prepare: Callable[[torch.device], tuple[Call, Call]]
    bytes: int
    flops: int
    speedup: float
    memory: float
    tolerance: float = 1e-5
    error: Callable[[Any, Any], float] = largest_difference

    @property
    def op(self) -> str:
        """The operator's name in `torch.ops.ovseg`."""
        return self.name.partition(":")[0]


def random(shape: tuple[int, ...], device: torch.device, seed: int = 0) -> Tensor:
    """Return the same normal numbers every time."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)


def smooth_masks(count: int, side: int, device: torch.device) -> Tensor:
    """Return mask logits (1, count, side, side) with blobs, as networks give them, not noise."""
    coarse = random((1, count, 8, 8), device, seed=1)
    return F.interpolate(coarse, (side, side), mode="bicubic", align_corners=False)


def prepare_mask_pool(device: torch.device) -> tuple[Call, Call]:
    """Pool FC-CLIP's dense features inside of its masks."""
    features, masks = random((1, 1536, 64, 64), device), smooth_masks(250, 256, device)

    def baseline() -> Tensor:
        inside = (F.interpolate(masks, (64, 64), mode="bilinear", align_corners=False) > 0).to(features.dtype)
        share = inside / (inside.sum((2, 3), keepdim=True) + 1e-8)
        return torch.einsum("bqhw,bchw->bqc", share, features)

    return lambda: mask_pool(features, masks), baseline


CASES = (
    OpCase(
        "mask_pool",
        "250 masks 256x256, 1536 x 64x64 features",
        "interpolate + threshold + einsum",
        prepare_mask_pool,
        bytes=4 * (1536 * 64 * 64 + 250 * 256 * 256 + 250 * 1536),
        flops=2 * 250 * 1536 * 64 * 64,
        speedup=2.0,
        memory=0.25,
    ),
)
"""What ``tools/benchmark.py ops`` measures."""
