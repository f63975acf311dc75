"""The operators that `benchmarks.ops` measures: on what, beside which plain PyTorch baseline, within which limits.

A new one is a function that makes the inputs and returns both calls, and a row of `CASES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ovseg.ops import class_argmax, mask_pool, ms_deform_attn
from ovseg.ops.bilinear import bilinear_matrix
from ovseg.ops.ms_deform_attn import pixel_centres, sample_grids

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


def prepare_class_argmax(device: torch.device) -> tuple[Call, Call]:
    """Label a photo of 1080p from patch scores, probabilities of the winners included; the baseline gives none."""
    scores = random((847, 120, 160), device)
    matrices = [bilinear_matrix(*sides).float().to(device) for sides in ((120, 1080), (160, 1920))]
    classes = torch.arange(847, device=device)

    def baseline() -> Tensor:
        return F.interpolate(scores[None], (1080, 1920), mode="bilinear", align_corners=False)[0].argmax(0)

    return lambda: class_argmax(scores, *matrices, classes)[0], baseline


def share_of_other_labels(found: Tensor, expected: Tensor) -> float:
    """Return the share of the pixels whose labels differ."""
    return (found != expected).double().mean().item()


def prepare_deformable(shapes: list[tuple[int, int]], device: torch.device) -> tuple[Call, Call]:
    """Attend from every pixel of all levels to places some pixels around it, as FC-CLIP's pixel decoder does."""
    count = sum(h * w for h, w in shapes)
    value = random((1, count, 8, 32), device)
    sizes = torch.tensor([(w, h) for h, w in shapes], device=device)[:, None]
    steps = 3 * random((1, count, 8, len(shapes), 4, 2), device, seed=1) / sizes
    places = pixel_centres(shapes, device)[:, None, None, None] + steps
    weights = random((1, count, 8, 4 * len(shapes)), device, seed=2).softmax(-1).unflatten(-1, (-1, 4))
    return lambda: ms_deform_attn(value, shapes, places, weights), lambda: sample_grids(value, shapes, places, weights)


def deformable_case(name: str, shapes: list[tuple[int, int]]) -> OpCase:
    """Return a case of `prepare_deformable`."""
    count, samples = sum(h * w for h, w in shapes), 8 * 4 * len(shapes)
    return OpCase(
        f"ms_deform_attn:{name}",
        f"{' + '.join(f'{h}x{w}' for h, w in shapes)}, {count} queries, 8 heads x 32, 4 points",
        "grid_sample, level by level",
        lambda device: prepare_deformable(shapes, device),
        bytes=4 * count * (2 * 256 + 3 * samples),
        flops=2 * count * samples * 4 * 32,
        speedup=1.5,
        memory=0.25,
    )


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
    OpCase(
        "class_argmax",
        "847 classes 120x160 to 1080x1920",
        "interpolate + argmax",
        prepare_class_argmax,
        bytes=4 * (847 * 120 * 160 + 2 * 1080 * 1920),
        flops=2 * 847 * 1080 * 1920,  # a multiply-add for every interpolated value
        speedup=3.0,
        memory=0.05,
        tolerance=1e-4,  # ties within rounding
        error=share_of_other_labels,
    ),
    deformable_case("640", [(20, 20), (40, 40), (80, 80)]),
    deformable_case("800x1088", [(25, 34), (50, 68), (100, 136)]),
)
"""What ``tools/benchmark.py ops`` measures."""
