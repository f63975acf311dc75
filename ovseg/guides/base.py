"""What a guide is, and how one is named: ``KIND`` or ``KIND:ARGUMENT``, such as ``timm:vit_base_patch8_224.dino``."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.utils.registry import Registry
from torch import Tensor, nn

from ovseg.clip.features import Context, Need
from ovseg.errors import ConfigError
from ovseg.system.registry import Kind, build

GUIDE_REGISTRY = Registry("GUIDE")
GUIDE_REGISTRY.__doc__ = "Functions from the options argument (the text behind the colon) and facet to a `Guide`."

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FACETS = ("token", "query", "key", "value", "query+key")


class Guide(nn.Module):
    """Dense features that say which pixels belong together; frozen.

    Attributes:
        name: By which it was built, such as ``clip:0.5``; that of the class where it was not built by name.
        not_compiled: Why no graph can have it in it; empty where one can.
    """

    not_compiled: str = ""

    def __init__(self) -> None:
        super().__init__()
        self.name = type(self).__name__

    def needs_of(self, depth: int) -> Need:
        """Return what it wants recorded of the blocks of a CLIP of this depth; nothing unless it reads CLIP itself."""
        return Need()

    def forward(self, context: Context) -> Tensor:
        """Return features (B, C, h, w), not of unit length and on any grid, of the images of a pass."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> Guide:
        """Stay in evaluation mode, whatever the model around it does."""
        return super().train(False)


GUIDES: Kind[Callable[..., Guide]] = Kind("guide", GUIDE_REGISTRY)


def build_guide(name: str | Guide, facet: str = "token") -> Guide:
    """Build a guide by name.

    Args:
        name: ``KIND`` or ``KIND:ARGUMENT``; a `Guide` is returned as it is.
        facet: What to take of the backbone's last block: its output tokens (``token``), or its ``query``, ``key``,
            ``value``, or ``query+key``, heads joined.

    Raises:
        UnknownNameError: No such kind.
        ConfigError: The facet or the argument is not allowed.
        WeightsError: Its weights cannot be had.
    """
    if isinstance(name, Guide):
        return name
    if facet not in FACETS:
        raise ConfigError(f"guide facet is '{facet}'; expected one of {', '.join(FACETS)}")
    kind, _, argument = name.partition(":")
    guide = build(GUIDES, kind, {"argument": argument, "facet": facet})
    guide.name = name
    return guide.eval().requires_grad_(False)


@contextmanager
def entering(modules: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Collect the tokens with which this thread calls some modules, in the order of the calls.

    They are the first argument or ``hidden_states``. Threads share the modules, so calls of others do not count.
    """
    found: list[Tensor] = []
    own = threading.get_ident()

    def keep(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any] | None = None) -> None:
        if threading.get_ident() == own:
            found.append(inputs[0] if inputs else (named or {})["hidden_states"])

    hooks = [module.register_forward_pre_hook(keep, with_kwargs=True) for module in modules]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def join_heads(heads: Tensor, grid: tuple[int, int]) -> Tensor:
    """Lay the per-head vectors of patches (B, heads, h * w, d) out as features (B, heads * d, h, w)."""
    return heads.transpose(1, 2).flatten(2).mT.unflatten(-1, grid)


def unit_patches(features: Tensor) -> Tensor:
    """Return unit vectors (B, h * w, C) in float32 of features (B, C, h, w)."""
    return torch.nn.functional.normalize(features.float().flatten(2).mT, dim=-1)
