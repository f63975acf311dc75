"""CLIP's own patch logits: the baseline every method is compared with."""

from __future__ import annotations

from ovseg.clip.tokens import DENSE
from ovseg.recalibration.base import RECALIBRATION_REGISTRY, Recalibration


@RECALIBRATION_REGISTRY.register()
class CLIP(Recalibration):
    """Plain CLIP (Radford et al., ICML 2021; github.com/openai/CLIP): every block as it was trained."""

    requires = frozenset({DENSE})
    without_golden = "equal to open_clip's encode_image, and the 'vanilla' rows of the NACLIP and ClearCLIP cases"
