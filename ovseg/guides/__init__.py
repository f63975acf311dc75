"""Guides: features of a second frozen backbone (or of CLIP itself) that say which pixels belong together.

Each file of this package registers its guides, by being there.
"""

import importlib
import pkgutil

from ovseg.guides.base import GUIDE_REGISTRY, Guide, build_guide, unit_patches

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["GUIDE_REGISTRY", "Guide", "build_guide", "unit_patches"]
