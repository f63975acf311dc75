"""MAFT+: mask-aware and representation losses, the transfer of content, whole models and a step of training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from golden_runners.maft_model import full_model, training_step
from golden_runners.maft_parts import run_mask_aware, run_representation, run_transfer

PARTS: dict[str, Callable[[Any], dict[str, Tensor]]] = {
    "ma_loss": run_mask_aware,
    "rc_loss": run_representation,
    "cdt": run_transfer,
    "full_model": full_model,
    "training_forward": training_step,
}
"""What runs which ``part`` of the cases."""


def run(case: Any) -> dict[str, Tensor]:
    """Return all outputs and intermediates of a case."""
    return PARTS[case.config["part"]](case)
