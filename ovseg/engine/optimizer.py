"""Parameter groups, schedules and gradient clipping, as SAN, FC-CLIP and MAFT+ have them."""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from ovseg.engine.muon import MuonAdamW
from ovseg.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from detectron2.config import CfgNode

NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm, nn.LocalResponseNorm)
SCHEDULES = ("WarmupPolyLR", "WarmupMultiStepLR", "WarmupCosineLR")


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that are learnt, by name, each once."""
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def parameter_groups(model: nn.Module, cfg: CfgNode) -> list[dict[str, Any]]:
    """Sort the trainable parameters by learning rate and weight decay.

    ``SOLVER.LR_MULTIPLIERS`` and ``DECAY_MULTIPLIERS`` are lists of [regular expression, factor] over the names; the
    first that is found in a name counts. Without one, weight decay is WEIGHT_DECAY_NORM for PyTorch's norm layers,
    WEIGHT_DECAY_EMBED for ``nn.Embedding``, else WEIGHT_DECAY.

    Returns:
        Groups with ``params``, ``lr``, ``initial_lr`` and ``weight_decay``, in the order of their first parameters.

    Raises:
        ConfigError: Nothing is trainable, or a rule is malformed or fits no parameter.
    """
    solver, parameters = cfg.SOLVER, trainable_parameters(model)
    if not parameters:
        raise ConfigError(f"{type(model).__name__} has no trainable parameter; expected an architecture that learns")
    rates = _Rules("LR_MULTIPLIERS", solver.LR_MULTIPLIERS, parameters)
    decays = _Rules("DECAY_MULTIPLIERS", solver.DECAY_MULTIPLIERS, parameters)
    owners = {
        f"{prefix}.{name}" if prefix else name: module
        for prefix, module in model.named_modules()
        for name, _ in module.named_parameters(recurse=False)
    }
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        factor = decays(name)
        if factor is not None:
            decay = factor * solver.WEIGHT_DECAY
        elif isinstance(owners[name], NORMS):
            decay = solver.WEIGHT_DECAY_NORM
        elif isinstance(owners[name], nn.Embedding):
            decay = solver.WEIGHT_DECAY_EMBED
        else:
            decay = solver.WEIGHT_DECAY
        rate = rates(name)
        groups.setdefault((solver.BASE_LR * (1.0 if rate is None else rate), decay), []).append(parameter)
    return [
        {"params": params, "lr": rate, "initial_lr": rate, "weight_decay": decay}
        for (rate, decay), params in groups.items()
    ]


class _Rules:
    """Factors by regular expression."""

    def __init__(self, key: str, rules: Sequence[Any], names: Iterable[str]) -> None:
        try:
            self.rules = [(re.compile(pattern), float(factor)) for pattern, factor in rules]
        except (TypeError, ValueError, re.error) as error:
            raise ConfigError(f"SOLVER.{key} is {list(rules)}; expected [[regular expression, factor], ...]") from error
        for pattern, _ in self.rules:
            if not any(pattern.search(name) for name in names):
                raise ConfigError(f"SOLVER.{key} has '{pattern.pattern}', which fits no trainable parameter; mend it")

    def __call__(self, name: str) -> float | None:
        return next((factor for pattern, factor in self.rules if pattern.search(name)), None)


def build_optimizer(model: nn.Module, cfg: CfgNode) -> torch.optim.Optimizer:
    """Build AdamW, SGD, or Muon for the matrices beside AdamW for the rest, over `parameter_groups`.

    Raises:
        ConfigError: As `parameter_groups`.
        EnvironmentProblem: PyTorch has no Muon.
        UnknownNameError: No such optimizer.
    """
    name, groups = cfg.SOLVER.OPTIMIZER, parameter_groups(model, cfg)
    if name == "ADAMW":
        return torch.optim.AdamW(groups)
    if name == "SGD":
        return torch.optim.SGD(groups, momentum=cfg.SOLVER.MOMENTUM, nesterov=cfg.SOLVER.NESTEROV)
    if name == "MUON":
        return cast("torch.optim.Optimizer", MuonAdamW(groups, matrices(model)))  # has all that is asked of it
    raise unknown_name("SOLVER.OPTIMIZER", name, ("ADAMW", "SGD", "MUON"))


def matrices(model: nn.Module) -> list[nn.Parameter]:
    """Return the trainable weights that are matrices between two sets of channels; tables of embeddings are none."""
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    return [
        value
        for name, value in trainable_parameters(model).items()
        if name.endswith("weight") and value.ndim == 2 and min(value.shape) > 1 and id(value) not in tables
    ]


def check_schedule(cfg: CfgNode) -> None:
    """Refuse a schedule that is not there, or an end that it has not.

    Raises:
        UnknownNameError: No such schedule; near matches are named.
        ConfigError: BASE_LR_END is not from 0 to BASE_LR, or the schedule is another than ``WarmupCosineLR``.
    """
    solver = cfg.SOLVER
    if solver.LR_SCHEDULER_NAME not in SCHEDULES:
        raise unknown_name("SOLVER.LR_SCHEDULER_NAME", solver.LR_SCHEDULER_NAME, SCHEDULES)
    if solver.BASE_LR_END and solver.LR_SCHEDULER_NAME != "WarmupCosineLR":
        raise ConfigError(
            f"SOLVER.BASE_LR_END is {solver.BASE_LR_END}, where WarmupCosineLR alone ends, and the schedule is "
            f"{solver.LR_SCHEDULER_NAME}; leave it out"
        )
    if not 0 <= solver.BASE_LR_END <= solver.BASE_LR:
        raise ConfigError(f"SOLVER.BASE_LR_END is {solver.BASE_LR_END}; expected 0 to BASE_LR, {solver.BASE_LR}")


def learning_rate_factor(cfg: CfgNode, step: int) -> float:
    """Return the factor on all learning rates at a step (from 0); it depends on nothing else.

    ``WarmupPolyLR``: ``(1 - step / MAX_ITER) ** POLY_LR_POWER``, no lower than POLY_LR_CONSTANT_ENDING.
    ``WarmupMultiStepLR``: GAMMA for each of STEPS that is reached. ``WarmupCosineLR``: half a cosine from 1 to
    BASE_LR_END / BASE_LR.
    Before WARMUP_ITERS all are multiplied by a line from WARMUP_FACTOR to 1 (or, with WARMUP_METHOD constant, by
    WARMUP_FACTOR).

    Raises:
        UnknownNameError, ConfigError: As `check_schedule`.
    """
    check_schedule(cfg)
    solver = cfg.SOLVER
    if solver.LR_SCHEDULER_NAME == "WarmupPolyLR":
        factor = max((1 - step / solver.MAX_ITER) ** solver.POLY_LR_POWER, solver.POLY_LR_CONSTANT_ENDING)
    elif solver.LR_SCHEDULER_NAME == "WarmupCosineLR":
        end = solver.BASE_LR_END / solver.BASE_LR if solver.BASE_LR_END else 0.0
        factor = end + (1 - end) * 0.5 * (1 + math.cos(math.pi * step / solver.MAX_ITER))
    else:
        factor = solver.GAMMA ** bisect_right(sorted(solver.STEPS), step)
    if step < solver.WARMUP_ITERS:
        share = step / solver.WARMUP_ITERS if solver.WARMUP_METHOD == "linear" else 0.0
        factor *= solver.WARMUP_FACTOR * (1 - share) + share
    return float(factor)


def clip_gradients(parameters: Sequence[nn.Parameter], cfg: CfgNode) -> Tensor:
    """Bring the norm of all gradients together to at most ``SOLVER.CLIP_GRADIENTS.CLIP_VALUE``, where that is on.

    Returns:
        The norm before, a scalar.

    Raises:
        ConfigError: The type of clipping is another one.
    """
    node = cfg.SOLVER.CLIP_GRADIENTS
    if node.ENABLED and node.CLIP_TYPE != "full_model":
        raise ConfigError(f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE is '{node.CLIP_TYPE}'; expected full_model")
    limit = node.CLIP_VALUE if node.ENABLED else float("inf")
    return nn.utils.clip_grad_norm_(parameters, limit, norm_type=node.NORM_TYPE)
