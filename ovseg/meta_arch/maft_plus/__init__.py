"""MAFT+: the model, its losses and how its checkpoints are read."""

from ovseg.meta_arch.maft_plus.model import MAFTPlus

__all__ = ["MAFTPlus"]
