"""Meta architectures, registered with Detectron2: each file or sub-package adds its own, by being here."""

from detectron2.modeling import META_ARCH_REGISTRY

from ovseg.system.registry import Kind, register_all

register_all(__name__)

ARCHITECTURES = Kind("MODEL.META_ARCHITECTURE", META_ARCH_REGISTRY, lambda one: hasattr(one, "set_vocabulary"))
"""Those of them that are asked by words; Detectron2 registers its own beside them."""
