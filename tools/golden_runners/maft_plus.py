"""MAFT+: mask-aware and representation losses, and the transfer of content."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from golden_runners.maft_parts import run_mask_aware, run_representation, run_transfer

PARTS: dict[str, Callable[[Any], dict[str, Tensor]]] = {
    "ma_loss": run_mask_aware,
    "rc_loss": run_representation,
    "cdt": run_transfer,
}
"""What runs which ``part`` of the cases."""


def run(case: Any) -> dict[str, Tensor]:
    """Return all outputs and intermediates of a case."""
    return PARTS[case.config["part"]](case)
