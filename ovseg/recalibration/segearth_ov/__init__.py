"""SegEarth-OV: the method and its upsamplers."""

from ovseg.recalibration.segearth_ov.method import SegEarth_OV

__all__ = ["SegEarth_OV"]
