"""Refinement of score maps by the image they belong to, and of labels by their neighbours."""

from ovseg.refinement.closing import close_labels
from ovseg.refinement.dense_crf import dense_crf
from ovseg.refinement.pamr import affinity, pamr, propagate

__all__ = ["affinity", "close_labels", "dense_crf", "pamr", "propagate"]
