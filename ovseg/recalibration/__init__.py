"""Training-free methods: each file of this package registers one, by being there.

A method without a golden case of its own says why in its class attribute ``without_golden``; a test holds to that.
"""

import importlib
import pkgutil

from ovseg.recalibration.base import (
    RECALIBRATION_REGISTRY,
    Recalibration,
    attend,
    build_recalibration,
    list_recalibrations,
    recalibration_class,
)


def _register_all() -> None:
    """Import every file of the package, which registers its methods."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")


_register_all()

__all__ = [
    "RECALIBRATION_REGISTRY",
    "Recalibration",
    "attend",
    "build_recalibration",
    "list_recalibrations",
    "recalibration_class",
]
