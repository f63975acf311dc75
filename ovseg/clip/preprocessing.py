"""How transformers says that images are normalised, in the forms of its files, as mean and deviation of RGB in 0..1."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ovseg.errors import WeightsError

FILES = (("preprocessor_config.json", ()), ("processor_config.json", ("image_processor",)))
"""Files, the first that says something, and where in them it stands; transformers 5 writes the second."""


def normalisation(folder: Path) -> dict[str, tuple[float, float, float]]:
    """Return ``mean`` and ``std`` of what a folder says of images; what it does not say is left out.

    Without ``do_normalize`` they are 0 and 1; another ``rescale_factor`` than 1 / 255 counts in both.

    Raises:
        WeightsError: A file cannot be read, or holds no numbers.
    """
    for name, inside in FILES:
        path = folder / name
        said = _read(path, inside) if path.is_file() else {}
        if {"image_mean", "image_std", "do_normalize"} & said.keys():
            return _of(said, path)
    return {}


def _of(said: Mapping[str, Any], path: Path) -> dict[str, tuple[float, float, float]]:
    scale = 255 * float(said.get("rescale_factor", 1 / 255)) if said.get("do_rescale", True) else 255.0
    if not said.get("do_normalize", True):
        return {"mean": (0.0, 0.0, 0.0), "std": (1 / scale,) * 3}
    names = (("mean", "image_mean"), ("std", "image_std"))
    return {ours: _three(said[theirs], scale, f"{path}: {theirs}") for ours, theirs in names if said.get(theirs)}


def _three(values: Any, scale: float, what: str) -> tuple[float, float, float]:
    try:
        first, second, third = (float(value) / scale for value in values)
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{what} is {values!r}; expected three numbers") from error
    return first, second, third


def _read(path: Path, inside: tuple[str, ...]) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        for key in inside:
            found = found.get(key) or {}
        if not isinstance(found, dict):
            raise ValueError(f"it holds a {type(found).__name__}")
        return found
    except (OSError, ValueError, AttributeError) as error:
        raise WeightsError(f"{path} cannot be read ({error}); expected JSON of an image processor") from error
