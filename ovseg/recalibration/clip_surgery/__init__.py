"""CLIP Surgery: the method and its points for SAM."""

from ovseg.recalibration.clip_surgery.method import CLIP_Surgery

__all__ = ["CLIP_Surgery"]
