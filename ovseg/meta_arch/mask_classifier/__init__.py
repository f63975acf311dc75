"""Names for any masks: those of a region generator, or the user's own."""

from ovseg.meta_arch.mask_classifier.model import MaskClassifier

__all__ = ["MaskClassifier"]
