"""Open-Vocabulary SAM: points and boxes in, a mask and its name out, from one frozen convolutional CLIP."""

from __future__ import annotations

from ovseg.meta_arch.ovsam.model import OVSAM

__all__ = ["OVSAM"]
