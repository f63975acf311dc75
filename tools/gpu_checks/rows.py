"""What all parts share: rows of results, and how a part runs in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

OK, FAIL, SKIPPED = "ok", "FAIL", "skipped"
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass
class Row:
    """One finding.

    Attributes:
        name: What was looked at; the same in every run.
        status: ``ok``, ``FAIL`` or ``skipped``.
        remark: What was found, one line.
        numbers: By name, with the unit in it, such as ``ms``.
    """

    name: str
    status: str = OK
    remark: str = ""
    numbers: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """What a part is asked for.

    Attributes:
        device: Where.
        small: Whether it is a dry run: few cases, small sizes.
    """

    device: torch.device
    small: bool


class Skipped(Exception):
    """Something cannot be tried here; the message says why."""


def found(name: str, look: Callable[[], Row]) -> Row:
    """Look; what breaks down is a row that says so, and the others go on."""
    try:
        return look()
    except Skipped as why:
        return Row(name, SKIPPED, str(why))
    except Exception as problem:  # whatever is raised is what was found
        reason = (str(problem).strip().splitlines() or [""])[0]
        return Row(name, FAIL, f"{type(problem).__name__}: {reason}"[:300])


@contextmanager
def exact() -> Iterator[None]:
    """Let float32 be float32 on CUDA: no TF32 in products and convolutions."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def to_dict(row: Row) -> dict[str, Any]:
    """Return a row for JSON."""
    return {"name": row.name, "status": row.status, "remark": row.remark, "numbers": row.numbers}
