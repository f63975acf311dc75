"""SED: the model, its decoder and how its checkpoints are read."""

from ovseg.meta_arch.sed.model import SED

__all__ = ["SED"]
