"""CAT-Seg: the model, its aggregator and how its checkpoints are read."""

from ovseg.meta_arch.cat_seg.model import CATSeg

__all__ = ["CATSeg"]
