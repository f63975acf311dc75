"""Meta architectures, registered with Detectron2: each file adds one to META_ARCH_REGISTRY when it is imported."""

from ovseg.meta_arch.fcclip import FCCLIP
from ovseg.meta_arch.maft_plus import MAFTPlus
from ovseg.meta_arch.san import SAN
from ovseg.meta_arch.training_free import TrainingFree

__all__ = ["FCCLIP", "SAN", "MAFTPlus", "TrainingFree"]
