"""CLIPtrase: the method and its clustering."""

from ovseg.recalibration.cliptrase.method import CLIPtrase

__all__ = ["CLIPtrase"]
