"""SAN: the model, its side adapter and how its checkpoints are read."""

from ovseg.meta_arch.san.model import SAN

__all__ = ["SAN"]
