"""The seam: what a training-free method changes in the last blocks of CLIP, and nothing else."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from detectron2.utils.registry import Registry
from torch import Tensor

from ovseg.clip.features import Context, Need
from ovseg.clip.open_clip_internals import Block
from ovseg.clip.position import RULES
from ovseg.errors import ConfigError, unknown_name

RECALIBRATION_REGISTRY = Registry("RECALIBRATION")
RECALIBRATION_REGISTRY.__doc__ = "Training-free methods by the name of their class; see `recalibration_class`."


class Recalibration:
    """Runs the handed-over blocks as CLIP would; a method overrides the least it can, most often `attention` alone.

    A subclass states its own values of the class attributes. Users may change the first three by keyword options, which
    is what the ablations of the papers do.

    Attributes:
        residual: Whether the tokens that enter a block are added to what its attention gives.
        feed_forward: Whether the feed-forward half runs (with its own residual).
        pos_resize: Rule by which position embeddings are resized; see `ovseg.clip.position`.
        blocks: How many of the last blocks are handed over.
        needs: What to record of the blocks before them; it is found in the context.
        without_golden: Why a method has no golden case of its own; empty where it has.
    """

    residual: bool = True
    feed_forward: bool = True
    pos_resize: str = "bicubic_offset"
    blocks: int = 1
    needs: Need = Need()
    without_golden: ClassVar[str] = ""

    def __init__(
        self, *, residual: bool | None = None, feed_forward: bool | None = None, pos_resize: str | None = None
    ) -> None:
        """Change what all methods have in common; None keeps the value of the method.

        Raises:
            ConfigError: An option has a value that is not allowed.
        """
        if residual is not None:
            self.residual = residual
        if feed_forward is not None:
            self.feed_forward = feed_forward
        if pos_resize is not None:
            self.pos_resize = one_of("pos_resize", pos_resize, RULES)

    @property
    def name(self) -> str:
        """Name under which the method is registered."""
        return type(self).__name__

    def attention(self, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
        """Mix values by attention: q, k, v and the result are (B, heads, 1 + h * w, d), class token first."""
        return attend(q, k, v)

    def weights(self, q: Tensor, k: Tensor, context: Context) -> Tensor:
        """Return the weights (B, heads, N, N) by which `attention` mixes values; for inspection, not for speed."""
        identity = torch.eye(q.shape[2], dtype=q.dtype, device=q.device).expand(*q.shape[:2], -1, -1)
        return self.attention(q, k, identity, context)

    def run(self, tokens: Tensor, blocks: Sequence[Block], context: Context) -> Tensor:
        """Take tokens (B, N, C) through the handed-over blocks, ordinarily one."""
        for block in blocks:
            tokens = self.run_block(tokens, block, context)
        return tokens

    def run_block(self, tokens: Tensor, block: Block, context: Context) -> Tensor:
        """Take tokens (B, N, C) through one block with the attention, residual and feed-forward of the method."""
        attended = block.project(self.attention(*block.qkv(tokens), context))
        tokens = tokens + attended if self.residual else attended
        return tokens + block.feed_forward(tokens) if self.feed_forward else tokens

    def patch_scores(self, cosines: Tensor, context: Context) -> Tensor:
        """Turn cosines (B, T, h, w) of patches and texts into the scores that are upsampled; the identity for most."""
        return cosines


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``softmax(query key^T / sqrt(d) + bias) value`` without ever storing the weights of all heads."""
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias)


def one_of(option: str, got: str, allowed: Sequence[str]) -> str:
    """Return a value if it is allowed.

    Raises:
        ConfigError: It is not; the message lists what is.
    """
    if got not in allowed:
        raise ConfigError(f"{option} is '{got}'; expected one of {', '.join(allowed)}")
    return got


def at_least(option: str, got: Any, low: float) -> Any:
    """Return a number if it is not below a bound.

    Raises:
        ConfigError: It is below.
    """
    if got < low:
        raise ConfigError(f"{option} is {got}; expected at least {low}")
    return got


def list_recalibrations() -> list[str]:
    """Return the names of all registered methods, in the spelling of their papers."""
    return sorted(name for name, _ in RECALIBRATION_REGISTRY)


def recalibration_class(name: str) -> type[Recalibration]:
    """Look a method up by name, in any case: ``"SCLIP"`` or ``"sclip"``.

    Raises:
        UnknownNameError: There is none; the message has the nearest names.
    """
    by_lower = {known.lower(): known for known in list_recalibrations()}
    if name.lower() not in by_lower:
        raise unknown_name("recalibration", name, by_lower)
    return RECALIBRATION_REGISTRY.get(by_lower[name.lower()])


def build_recalibration(name: str, **options: Any) -> Recalibration:
    """Build a method by name and options.

    Args:
        name: As in `list_recalibrations`, in any case.
        options: Keyword options of the method's class, and of `Recalibration`.

    Raises:
        UnknownNameError: No such method.
        ConfigError: No such option, or a value of a wrong type or out of range.
    """
    method = recalibration_class(name)
    known = _options(method)
    for option, value in options.items():
        if option not in known:
            near = difflib.get_close_matches(option, known, n=3, cutoff=0.5)
            hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(sorted(known))}"
            raise ConfigError(f"unknown option '{option}' of {method.__name__}; {hint}")
        _check_type(option, value, known[option])
    return method(**options)


def _options(method: type[Recalibration]) -> dict[str, str]:
    """Return the options of a class and its bases with their annotations."""
    known: dict[str, str] = {}
    for cls in reversed(method.__mro__):
        if issubclass(cls, Recalibration) and "__init__" in vars(cls):
            parameters = inspect.signature(cls.__init__).parameters.values()
            known |= {p.name: str(p.annotation) for p in parameters if p.kind is p.KEYWORD_ONLY}
    return known


def _check_type(option: str, got: Any, annotation: str) -> None:
    """Refuse a value that the annotation of an option excludes; an int is welcome as a float, a bool never."""
    accepted = {part.strip() for part in annotation.split("|")}
    kind = "None" if got is None else type(got).__name__
    if kind not in accepted and not (kind == "int" and "float" in accepted):
        raise ConfigError(f"option {option} is {got!r} ({kind}); expected {' or '.join(sorted(accepted))}")
