"""CLIP-DINOiser: the method, its heads and how they are trained."""

from ovseg.recalibration.clip_dinoiser.method import CLIP_DINOiser

__all__ = ["CLIP_DINOiser"]
