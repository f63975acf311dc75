"""DeCLIP: a CLIP taught by its own crops and by a second backbone."""

from ovseg.meta_arch.declip.model import TunedDeCLIP

__all__ = ["TunedDeCLIP"]
