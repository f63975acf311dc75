"""CLIP decomposition: the method and the parts that only it uses."""

from ovseg.recalibration.clip_decomposition.method import CLIP_Decomposition

__all__ = ["CLIP_Decomposition"]
