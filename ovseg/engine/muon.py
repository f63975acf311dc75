"""Muon for matrices, AdamW for the rest, as one optimizer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from ovseg.errors import EnvironmentProblem


class MuonAdamW:
    """Muon (Jordan et al., 2024, github.com/KellerJordan/Muon) at updates of AdamW's size, beside AdamW.

    Short trainings come farther with it than with AdamW alone. It has what a training loop asks of an optimizer.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], matrices: Iterable[nn.Parameter]) -> None:
        """Split the groups.

        Args:
            groups: With ``params``, ``lr``, ``initial_lr`` and ``weight_decay``.
            matrices: Those of the parameters that Muon moves, each of two dimensions.

        Raises:
            EnvironmentProblem: PyTorch is older than 2.9, which brought Muon.
        """
        if not hasattr(torch.optim, "Muon"):
            raise EnvironmentProblem(
                f"torch {torch.__version__} has no Muon; update it to 2.9 or newer, or set SOLVER.OPTIMIZER to ADAMW"
            )
        wanted = {id(matrix) for matrix in matrices}
        split: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
        for group in groups:
            for inside, kept in split.items():
                if own := [value for value in group["params"] if (id(value) in wanted) == inside]:
                    kept.append({**group, "params": own})
        self.parts: list[torch.optim.Optimizer] = []
        if split[True]:
            self.parts.append(torch.optim.Muon(split[True], adjust_lr_fn="match_rms_adamw"))
        if split[False]:
            self.parts.append(torch.optim.AdamW(split[False]))

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of both."""
        return [group for part in self.parts for group in part.param_groups]

    def step(self) -> None:
        """Move all parameters."""
        for part in self.parts:
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none=set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """Return the states of both."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        for part, own in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(own)
