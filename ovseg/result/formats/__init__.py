"""Output formats: a file of this folder that holds a `Format` is one, by being there."""

import importlib
import pkgutil

from ovseg.result.formats.base import Format, find_format, list_formats

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["Format", "find_format", "list_formats"]
