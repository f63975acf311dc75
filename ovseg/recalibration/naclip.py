"""NACLIP: key-key attention with a Gaussian preference for neighbours."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ovseg.clip.features import Context
from ovseg.errors import at_least, one_of
from ovseg.recalibration.base import RECALIBRATION_REGISTRY, Recalibration, attend, neighbourhood

_ATTENTIONS = ("naclip", "nonly", "kk", "csa", "vanilla")


@RECALIBRATION_REGISTRY.register()
class NACLIP(Recalibration):
    """Neighbour-aware attention of NACLIP (Hajimiri et al., WACV 2025; github.com/sinahmr/NACLIP).

    The default is what the original calls reduced; its vanilla architecture is ``residual=True, feed_forward=True``.
    """

    residual, feed_forward = False, False

    def __init__(self, *, attention: str = "naclip", gaussian_std: float = 5.0, **common: Any) -> None:
        """Choose a variant.

        Args:
            attention: ``naclip`` (keys and neighbours), ``nonly`` (neighbours only), ``kk`` (keys only), ``csa``
                (that of SCLIP) or ``vanilla`` (that of CLIP).
            gaussian_std: Width of the neighbourhood in patches.
            common: Options of `Recalibration`.
        """
        super().__init__(**common)
        self.kind = one_of("attention", attention, _ATTENTIONS)
        self.gaussian_std = at_least("gaussian_std", gaussian_std, 1e-3)

    def attention(self, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
        """Mix values by the chosen variant."""
        if self.kind == "vanilla":
            return attend(q, k, v)
        if self.kind == "csa":
            return attend(q, q, v) + attend(k, k, v)
        if self.kind == "kk":
            return attend(k, k, v)
        omega = context.tower.with_leading(neighbourhood(context.grid, self.gaussian_std, q.device)).to(q.dtype)
        if self.kind == "naclip":
            return attend(k, k, v, bias=omega)
        # Stand-in for the usual size of scores: |q_i| |k_j| averaged over pairs and heads, one number per image.
        size = (q.norm(dim=-1).mean(2) * k.norm(dim=-1).mean(2)).mean(1) * q.shape[-1] ** -0.5
        return (size[:, None, None, None] * omega).softmax(-1) @ v
