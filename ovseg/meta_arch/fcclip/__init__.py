"""FC-CLIP: the model and how its checkpoints are read."""

from ovseg.meta_arch.fcclip.model import FCCLIP

__all__ = ["FCCLIP"]
