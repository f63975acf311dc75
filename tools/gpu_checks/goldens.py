"""Golden cases of the papers' authors on a device: in float32 by their own tolerance, in half precision by a wide one.

A case's tensors lie on the device, and it is the default one while its runner builds the model; halves are autocast.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import check_golden
import torch
from check_golden import Case
from torch import Tensor

from gpu_checks.rows import DTYPES, Job, Row, exact, found

FOLDER = Path(__file__).resolve().parents[2] / "tests/golden"
LIST = Path(__file__).with_name("goldens.txt")
SMALL = ("san/full_nonsquare_pad", "fcclip/full_semantic_a", "naclip/square_native_p16")
SLACK = 8.0
"""How much of a case's tolerance float32 may use on another device than the CPU, whose sums have another order."""

HALF = {"fp16": 0.03, "bf16": 0.15}
"""Largest relative distance of a floating output in half precision, and the share of labels that may differ."""


def names() -> list[str]:
    """Return the cases of the list."""
    lines = (line.strip() for line in LIST.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def run(job: Job) -> list[Row]:
    """Run every case in every precision."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    cases = [name for name in names() if not job.small or name in SMALL]
    with exact():
        pairs = [(name, dtype) for name in cases for dtype in DTYPES]
        return [found(f"{name}, {dtype}", lambda n=name, d=dtype: check(n, d, job)) for name, dtype in pairs]


def check(name: str, dtype: str, job: Job) -> Row:
    """Run one case in one precision."""
    case = check_golden.read_case(FOLDER / f"{name}.json")
    runner = check_golden.find_runner(case.method)
    assert runner is not None, f"{case.method} has no runner"
    torch.manual_seed(0)
    with torch.no_grad(), placed(job.device, dtype):
        got = runner(replace(case, tensors={key: tensor.to(job.device) for key, tensor in case.tensors.items()}))
    outputs = {key: tensor.cpu() for key, tensor in got.items() if key.startswith("output.") and key in case.tensors}
    assert outputs, "the runner returned no output of the case"
    if dtype == "fp32":
        return in_full(f"{name}, {dtype}", case, outputs, 1.0 if job.device.type == "cpu" else SLACK)
    return in_half(f"{name}, {dtype}", case, outputs, HALF[dtype])


@contextmanager
def placed(device: torch.device, dtype: str) -> Iterator[None]:
    """Make a device the default one, and let products run in a precision."""
    with torch.device(device):
        if dtype == "fp32":
            yield
        else:
            with torch.autocast(device.type, DTYPES[dtype]):
                yield


def in_full(name: str, case: Case, outputs: Mapping[str, Tensor], slack: float) -> Row:
    """Compare by the tolerance of the case, times a slack."""
    atol, rtol = slack * float(case.tolerance["atol"]), slack * float(case.tolerance["rtol"])
    gaps = {key: check_golden.distance(own, case.tensors[key], atol, rtol) for key, own in outputs.items()}
    worst = max(gaps, key=lambda key: gaps[key][0])
    used = gaps[worst][0]
    remark = f"{len(gaps)} outputs, {worst} uses {used:.0%} of the tolerance"
    if used > 1:
        return Row(name, "FAIL", f"{worst}: {gaps[worst][2]}", {"error": used})
    return Row(name, remark=remark, numbers={"error": used})


def in_half(name: str, case: Case, outputs: Mapping[str, Tensor], limit: float) -> Row:
    """Compare by the relative distance of floats and the share of labels that differ.

    Lists of segments and objects, which a threshold cuts, may have another length; they are counted, not compared.
    """
    gaps, left = dict[str, float](), 0
    for key, own in outputs.items():
        wanted = case.tensors[key]
        if own.shape != wanted.shape:
            left += 1
        elif wanted.is_floating_point():
            finite = wanted.isfinite()
            gap = (own.double() - wanted.double())[finite]
            gaps[key] = (gap.norm() / wanted.double()[finite].norm().clamp(min=1e-12)).item()
        elif wanted.dim() > 1 and min(wanted.shape[-2:]) > 8:  # a map of labels
            gaps[key] = (own != wanted).double().mean().item()
    if not gaps:
        return Row(name, "skipped", f"{left} outputs have another length, none can be compared")
    worst = max(gaps, key=lambda key: gaps[key])
    status = "ok" if gaps[worst] <= limit else "FAIL"  # NaN fails, too
    more = f", {left} of another length" if left else ""
    return Row(name, status, f"{worst}: {gaps[worst]:.1e}, limit {limit:g}{more}", {"error": gaps[worst]})
