"""Trident: the method, its windows, and what SAM does for it."""

from ovseg.recalibration.trident.method import Trident

__all__ = ["Trident"]
