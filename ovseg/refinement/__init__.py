"""Refinement of score maps by the image they belong to, and of labels by their neighbours."""

from ovseg.refinement.closing import close_labels
from ovseg.refinement.pamr import affinity, pamr, propagate

__all__ = ["affinity", "close_labels", "pamr", "propagate"]
