"""ResCLIP: the method and its semantic feedback."""

from ovseg.recalibration.resclip.method import ResCLIP

__all__ = ["ResCLIP"]
