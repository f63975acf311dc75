"""The average of all weights of a training, in which its beginning and its end count most (CLIPood).

Shu et al., CLIPood: Generalizing CLIP to Out-of-Distributions, ICML 2023, arXiv 2302.00864; github.com/thuml/CLIPood.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ovseg.engine.checkpoints import WeightAverage
from ovseg.engine.optimizer import trainable_parameters
from ovseg.errors import ConfigError, at_least

if TYPE_CHECKING:
    from detectron2.config import CfgNode


def beta_weights(steps: int, beta: float) -> Tensor:
    """Return what the weights after each of 0..T steps count, (T + 1,) float64: the density of Beta(b, b).

    It is taken at ``(s + 0.5) / (T + 1)``; with b = 1 all count alike, below 1 both ends count most.

    Args:
        steps: T.
        beta: b.

    Raises:
        ConfigError: b is not positive, or there is no step.
    """
    if not beta > 0:
        raise ConfigError(f"SOLVER.BETA_AVERAGE.BETA is {beta}; expected a number above 0, such as 0.5")
    at_least("SOLVER.MAX_ITER", steps, 1)
    places = (torch.arange(steps + 1, dtype=torch.float64) + 0.5) / (steps + 1)
    both = torch.tensor(beta, dtype=torch.float64)
    return torch.distributions.Beta(both, both).log_prob(places).exp()


class BetaAverage(WeightAverage):
    """Beta moving average of the trainable parameters, in float32.

    What a step counts depends on its number alone, so a run that goes on needs nothing but the average of before.
    """

    def __init__(self, model: nn.Module, steps: int, beta: float) -> None:
        """Start from the model as it is, which is what step 0 counts.

        Raises:
            ConfigError: See `beta_weights`.
        """
        super().__init__(model, 0.0)
        weights = beta_weights(steps, beta)
        self.shares = (weights / weights.cumsum(0)).tolist()
        """What part of the average after step s its own weights are."""

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after so many steps (1..T)."""
        for name, value in trainable_parameters(model).items():
            self.values[name].lerp_(value.float(), self.shares[step])


def build_average(model: nn.Module, cfg: CfgNode) -> WeightAverage | None:
    """Return the average of the weights of a training that a config asks for: None, ``EMA`` or ``BETA_AVERAGE``.

    Raises:
        ConfigError: It asks for both, or a number is out of range.
    """
    moving, beta = cfg.SOLVER.EMA, cfg.SOLVER.BETA_AVERAGE
    if moving.ENABLED and beta.ENABLED:
        raise ConfigError("SOLVER.EMA and SOLVER.BETA_AVERAGE are both enabled; a model has one average, choose one")
    if beta.ENABLED:
        return BetaAverage(model, cfg.SOLVER.MAX_ITER, beta.BETA)
    return WeightAverage(model, moving.DECAY) if moving.ENABLED else None
