"""Red circles: the method and its marks."""

from ovseg.recalibration.redcircle.method import RedCircle

__all__ = ["RedCircle"]
