"""Zero guidance: the method and its segments without words."""

from ovseg.recalibration.zero_guidance.method import Zero_Guidance

__all__ = ["Zero_Guidance"]
