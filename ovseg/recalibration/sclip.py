"""SCLIP: tokens attend by the likeness of their queries and of their keys."""

from __future__ import annotations

from torch import Tensor

from ovseg.clip.features import Context
from ovseg.recalibration.base import RECALIBRATION_REGISTRY, Recalibration, attend


@RECALIBRATION_REGISTRY.register()
class SCLIP(Recalibration):
    """Correlative self-attention of SCLIP (Wang et al., ECCV 2024; github.com/wangf3014/SCLIP)."""

    def attention(self, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
        """Add query-query and key-key attention; the rows of the weights sum to 2."""
        return attend(q, q, v) + attend(k, k, v)
