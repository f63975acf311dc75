"""PAMR: affinities, deviation and the refined mask."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ovseg.refinement.pamr import affinity, deviation, pamr


def run(case: Any) -> dict[str, Tensor]:
    """Return all outputs and intermediates of a case."""
    inputs, dilations = case.group("input"), case.config["dilations"]
    image, mask = inputs["image"], inputs["mask"]
    return {
        "output.refined": pamr(image, mask, case.config["num_iter"], dilations),
        "output.after_1_iter": pamr(image, mask, 1, dilations),
        "intermediate.affinity": affinity(image, dilations)[:, None],
        "intermediate.image_std": deviation(image, dilations)[:, :, None],
    }
