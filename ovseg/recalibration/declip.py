"""DeCLIP: what a token is comes from its values, and what belongs to it from queries or keys alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ovseg.clip.features import Context, Kept
from ovseg.clip.tokens import Block
from ovseg.errors import one_of
from ovseg.recalibration.base import RECALIBRATION_REGISTRY, Recalibration

MODES = ("qq", "kk", "vv", "csa", "all")


@dataclass(frozen=True)
class Belonging(Kept):
    """The queries, keys or values (B, h * w, C) of the patches, heads joined, that say what belongs together."""

    of_patches: Tensor


@RECALIBRATION_REGISTRY.register()
class DeCLIP(Recalibration):
    """The last block of DeCLIP (Wang et al., CVPR 2025; github.com/xiaomoguhz/DeCLIP).

    On its own it runs on any CLIP, as ClearCLIP does; the released weights were trained for it. Towers that turn
    queries by places (EVA-02) are compared without turns and without the scale of attention, as in the original.
    """

    residual, feed_forward = False, False
    pos_resize = "bicubic"

    def __init__(self, *, mode: str = "qq", **common: Any) -> None:
        """Choose what is compared.

        Args:
            mode: ``qq``, ``kk``, ``vv``: queries, keys or values with themselves; ``csa``: the sum of the first two
                attentions; ``all``: one attention by the mean of the three.
            common: Options of `Recalibration`.
        """
        super().__init__(**common)
        self.mode = one_of("mode", mode, MODES)

    def run_block(self, tokens: Tensor, block: Block, context: Context) -> Tensor:
        """Compare queries and keys without the turns of places."""
        return super().run_block(tokens, block.placeless, context)

    def attention(self, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
        """Mix values by the likeness of one kind of vectors."""
        return self._mix(q, k, v, v, context)

    def weights(self, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
        """Return the weights (B, heads, N, N); in two modes they ask the values, too."""
        return self._mix(q, k, v, None, context)

    def _mix(self, q: Tensor, k: Tensor, v: Tensor, values: Tensor | None, context: Context) -> Tensor:
        block = context.blocks[-1]
        scale = block.scale if block.placeless is block else 1.0
        own = {"qq": (q,), "kk": (k,), "vv": (v,), "csa": (q, k), "all": (q, k, v)}[self.mode]
        if self.mode == "all":
            weights = (sum(part @ part.mT for part in own) * (scale / len(own))).softmax(-1)
            return weights if values is None else weights @ values
        if values is None:
            return sum((part @ part.mT * scale).softmax(-1) for part in own)  # type: ignore[return-value]
        mixed = [F.scaled_dot_product_attention(part, part, values, scale=scale) for part in own]
        return mixed[0] if len(mixed) == 1 else mixed[0] + mixed[1]


class TaughtDeCLIP(DeCLIP):
    """The same while it is taught: it keeps what it compared, for the loss. Not registered: it is of no use alone."""

    def attention(self, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
        """Mix values, and keep what is compared, heads joined."""
        own = {"qq": q, "kk": k, "vv": v}[self.mode]
        context.keep(Belonging(context.tower.split(own.transpose(1, 2).flatten(2))[1]))
        return super().attention(q, k, v, context)
