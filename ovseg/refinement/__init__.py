"""Refinement of score maps by the image they belong to."""

from ovseg.refinement.pamr import affinity, pamr, propagate

__all__ = ["affinity", "pamr", "propagate"]
