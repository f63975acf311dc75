"""RF-CLIP: the method, its sink tokens, and words that follow the image."""

from ovseg.recalibration.rf_clip.method import RF_CLIP

__all__ = ["RF_CLIP"]
