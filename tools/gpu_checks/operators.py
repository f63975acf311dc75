"""The operators on a device: the rules of PyTorch, derivatives, and the plain form on the CPU in double precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gpu_checks.rows import DTYPES, Job, Row, exact, found
from ovseg.ops.bilinear import bilinear_matrix
from ovseg.ops.class_argmax import class_argmax, plain_class_argmax
from ovseg.ops.library import kernel_devices, load_kernels
from ovseg.ops.mask_pooling import RESIZES, WEIGHTS, mask_pool_plain
from ovseg.ops.ms_deform_attn import ms_deform_attn, sample_grids

SHAPES = [(7, 5), (4, 3), (2, 2)]
TOLERANCE = {"fp32": 1e-5, "fp16": 4e-3, "bf16": 3e-2}
AGREEMENT = 0.999  # of labels; the rest is ties within rounding
OPTIONS = [(weights, resize) for weights in range(len(WEIGHTS)) for resize in range(len(RESIZES))]


def run(job: Job) -> list[Row]:
    """Check every operator."""
    load_kernels()
    checks: list[tuple[str, Callable[[], Row]]] = []
    for op in ("mask_pool", "class_argmax", "ms_deform_attn"):
        checks.append((f"{op}: kernel", lambda op=op: kernel(op, job)))
        checks.append((f"{op}: opcheck", lambda op=op: opcheck(op, job)))
        if op != "class_argmax":  # labels have no derivative
            checks.append((f"{op}: gradcheck", lambda op=op: gradcheck(op, job)))
        checks += [(f"{op}: parity, {dtype}", lambda op=op, dtype=dtype: parity(op, dtype, job)) for dtype in DTYPES]
    with exact():
        return [found(name, look) for name, look in checks]


def kernel(op: str, job: Job) -> Row:
    """There is a kernel of this operator for the device."""
    devices = kernel_devices(op)
    there = job.device.type in devices
    return Row(f"{op}: kernel", "ok" if there else "FAIL", f"compiled for {', '.join(devices) or 'nothing'}")


def opcheck(op: str, job: Job) -> Row:
    """PyTorch's own tests of operators: schema, fake tensors, autograd."""
    if op == "mask_pool":
        features, masks = (x.requires_grad_() for x in pooling(job.device, 8, (6, 7), (6, 11)))
        calls = [(torch.ops.ovseg.mask_pool.default, (features, masks, *options)) for options in OPTIONS]
    elif op == "class_argmax":
        calls = [(torch.ops.ovseg.class_argmax.default, (*scores(job.device, 9, (4, 5), (21, 30)), 40.0, True))]
    else:
        value, places, weights = (x.requires_grad_() for x in sampling(job.device, 8))
        sides = [side for shape in SHAPES for side in shape]
        calls = [(torch.ops.ovseg.ms_deform_attn.default, (value, sides, places, weights))]
    for operator, arguments in calls:
        torch.library.opcheck(operator, arguments)
    return Row(f"{op}: opcheck", remark=f"{len(calls)} calls")


def gradcheck(op: str, job: Job) -> Row:
    """Derivatives are those of differences, in double precision."""
    if op == "mask_pool":
        for weights, resize in OPTIONS:
            features, masks = (x.double().requires_grad_() for x in pooling(job.device, 3, (3, 4), (5, 6)))
            soft = WEIGHTS[weights] != "inside"
            inputs = (features, masks) if soft else (features,)

            def pool(*own: Tensor, fixed: Tensor = masks, weights: int = weights, resize: int = resize) -> Tensor:
                return torch.ops.ovseg.mask_pool(own[0], own[1] if len(own) > 1 else fixed.detach(), weights, resize)

            assert torch.autograd.gradcheck(pool, inputs, nondet_tol=1e-9)
    else:
        inputs = tuple(x.double().requires_grad_() for x in sampling(job.device, 3))
        assert torch.autograd.gradcheck(lambda v, p, w: ms_deform_attn(v, SHAPES, p, w), inputs, nondet_tol=1e-9)
    return Row(f"{op}: gradcheck")


def parity(op: str, dtype: str, job: Job) -> Row:
    """Results are those of the plain form in double precision on the CPU."""
    name, kind = f"{op}: parity, {dtype}", DTYPES[dtype]
    worst = 0.0
    for size in (1, 2) if job.small else (1, 2, 8, 24):
        if op == "class_argmax":
            worst = max(worst, label_gap(kind, size, job))
            continue
        found_, wanted = (pooled if op == "mask_pool" else sampled)(kind, size, job)
        assert found_.device.type == job.device.type and found_.dtype == kind
        worst = max(worst, (found_.double().cpu() - wanted).abs().max().item() / max(1.0, wanted.abs().max().item()))
    limit = 1 - AGREEMENT if op == "class_argmax" else TOLERANCE[dtype]
    what = "labels that differ" if op == "class_argmax" else "largest difference"
    return Row(name, "ok" if worst <= limit else "FAIL", f"{what} {worst:.1e}, limit {limit:.0e}", {"error": worst})


def pooled(dtype: torch.dtype, size: int, job: Job) -> tuple[Tensor, Tensor]:
    """Return pooled features of a kernel, and those of the plain form."""
    features, masks = (x.to(dtype) for x in pooling(job.device, 16 * size, (5 * size, 7 * size), (5 * size, 20 * size)))
    own = [torch.ops.ovseg.mask_pool(features, masks, *options) for options in OPTIONS]
    plain = [mask_pool_plain(features.double().cpu(), masks.cpu(), *options) for options in OPTIONS]
    return torch.cat(own), torch.cat(plain)


def sampled(dtype: torch.dtype, size: int, job: Job) -> tuple[Tensor, Tensor]:
    """Return what deformable attention samples by a kernel, and by the plain form."""
    value, places, weights = sampling(job.device, 4 * size, 40 * size)
    value = value.to(dtype)
    plain = sample_grids(value.double().cpu(), SHAPES, places.double().cpu(), weights.double().cpu())
    return ms_deform_attn(value, SHAPES, places, weights), plain


def label_gap(dtype: torch.dtype, size: int, job: Job) -> float:
    """Return the share of pixels with another label than the plain form in double precision."""
    grid, output = (5 * size, 6 * size), (45 * size, 60 * size)
    logits, rows, columns, classes, competes = scores(job.device, 40 * size, grid, output)
    logits = logits.to(dtype)
    labels, _ = class_argmax(logits, rows, columns, classes, competes, 40.0)
    assert labels.device.type == job.device.type
    arguments = (logits.double(), rows.double(), columns.double(), classes, competes)
    wanted, _ = plain_class_argmax(*(x.cpu() for x in arguments), 40.0, True)
    return (labels.cpu() != wanted).double().mean().item()


def pooling(device: torch.device, channels: int, grid: tuple[int, int], masks: tuple[int, int]) -> tuple[Any, Any]:
    """Return features (2, channels, h, w) and mask logits (2, masks[0], ., .) of a size that is none of the grid's."""
    generator = torch.Generator().manual_seed(channels)
    features = torch.randn(2, channels, *grid, generator=generator)
    logits = torch.randn(2, masks[0], masks[1], masks[1] + 3, generator=generator)
    return features.to(device), logits.to(device)


def scores(device: torch.device, queries: int, grid: tuple[int, int], size: tuple[int, int]) -> tuple[Any, ...]:
    """Return the arguments of `class_argmax` before the scale."""
    generator = torch.Generator().manual_seed(queries)
    logits = torch.randn(queries, *grid, generator=generator) * 0.2
    rows, columns = (bilinear_matrix(*axis).float() for axis in zip(grid, size, strict=True))
    competes = torch.rand(queries, generator=generator) > 0.2
    return tuple(x.to(device) for x in (logits, rows, columns, torch.arange(queries) // 2, competes))


def sampling(device: torch.device, dim: int, count: int = 5) -> tuple[Any, Any, Any]:
    """Return values, places (partly outside) and weights of deformable attention with two heads."""
    generator = torch.Generator().manual_seed(dim)
    tokens, levels = sum(high * wide for high, wide in SHAPES), len(SHAPES)
    value = torch.randn(2, tokens, 2, dim, generator=generator)
    places = torch.rand(2, count, 2, levels, 2, 2, generator=generator) * 1.4 - 0.2
    weights = torch.rand(2, count, 2, levels, 2, generator=generator)
    return value.to(device), places.to(device), weights.to(device)
