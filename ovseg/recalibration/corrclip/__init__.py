"""CorrCLIP: the method and its merging of regions."""

from ovseg.recalibration.corrclip.method import CorrCLIP

__all__ = ["CorrCLIP"]
