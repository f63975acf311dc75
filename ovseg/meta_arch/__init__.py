"""Meta architectures, registered with Detectron2: each file or sub-package adds its own, by being here."""

from ovseg.meta_arch.section import ARCHITECTURES, complete
from ovseg.system.registry import register_all

register_all(__name__)

__all__ = ["ARCHITECTURES", "complete"]
