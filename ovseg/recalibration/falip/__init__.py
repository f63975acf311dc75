"""FALIP: the method and its foveal attention."""

from ovseg.recalibration.falip.method import FALIP

__all__ = ["FALIP"]
