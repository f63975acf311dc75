"""CLIPer: the method and the parts that only it uses."""

from ovseg.recalibration.cliper.method import CLIPer

__all__ = ["CLIPer"]
