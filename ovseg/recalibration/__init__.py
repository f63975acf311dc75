"""Training-free methods: each file or sub-package registers one, by being there.

Files of your own need not lie here: the folders that the environment variable ``OVSEG_METHODS`` names (several like
those of ``PATH``) are searched too. A method without a golden case of its own says why in its class attribute
``without_golden``; a test holds to that.
"""

from ovseg.recalibration.base import (
    RECALIBRATION_REGISTRY,
    RECALIBRATIONS,
    Recalibration,
    attend,
    build_recalibration,
    list_recalibrations,
    recalibration_class,
)
from ovseg.system.registry import register_all

register_all(__name__, "OVSEG_METHODS")

__all__ = [
    "RECALIBRATIONS",
    "RECALIBRATION_REGISTRY",
    "Recalibration",
    "attend",
    "build_recalibration",
    "list_recalibrations",
    "recalibration_class",
]
