"""Training-free methods: each file of this package registers one, by being there.

Files of your own need not lie here: the folders that the environment variable ``OVSEG_METHODS`` names (several like
those of ``PATH``) are searched too. A method without a golden case of its own says why in its class attribute
``without_golden``; a test holds to that.
"""

import importlib
import os
import pkgutil
from pathlib import Path

from ovseg.errors import EnvironmentProblem
from ovseg.recalibration.base import (
    RECALIBRATION_REGISTRY,
    Recalibration,
    attend,
    build_recalibration,
    list_recalibrations,
    recalibration_class,
)


def _own_folders() -> list[str]:
    """Return the folders of the user's own methods."""
    folders = [folder for folder in os.environ.get("OVSEG_METHODS", "").split(os.pathsep) if folder]
    for folder in folders:
        if not Path(folder).is_dir():
            raise EnvironmentProblem(
                f"OVSEG_METHODS names '{folder}', which is no folder; correct or unset the variable"
            )
    return folders


def _register_all() -> None:
    """Import every file of the package, which registers its methods."""
    for module in pkgutil.iter_modules(__path__):
        try:
            importlib.import_module(f"{__name__}.{module.name}")
        except Exception as error:
            folder = getattr(module.module_finder, "path", "")
            if folder not in _own_folders():
                raise
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise EnvironmentProblem(f"the method '{module.name}' in {folder} cannot be imported ({reason})") from error


__path__ += _own_folders()
_register_all()

__all__ = [
    "RECALIBRATION_REGISTRY",
    "Recalibration",
    "attend",
    "build_recalibration",
    "list_recalibrations",
    "recalibration_class",
]
