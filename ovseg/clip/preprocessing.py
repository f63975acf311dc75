"""How transformers says that images are normalised, in the forms of its files, as mean and deviation of RGB in 0..1."""

from __future__ import annotations

import json
import math
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
    factor = said.get("rescale_factor", 1 / 255) if said.get("do_rescale", True) else 1
    scale = 255 * three(factor, f"{path}: rescale_factor", positive=True)[0]
    if not said.get("do_normalize", True):
        return {"mean": (0.0, 0.0, 0.0), "std": (1 / scale,) * 3}
    names = (("mean", "image_mean"), ("std", "image_std"))
    found = {key: three(said[own], f"{path}: {own}", key == "std") for key, own in names if said.get(own) is not None}
    return {key: (first / scale, second / scale, third / scale) for key, (first, second, third) in found.items()}


def three(values: Any, what: str, positive: bool = False) -> tuple[float, float, float]:
    """Return what is said of three channels; one number is said of all.

    Args:
        values: As a config says it.
        what: What it is, for messages.
        positive: Whether zero and less make no sense.

    Raises:
        WeightsError: It is something else.
    """
    try:
        first, second, third = (float(value) for value in ([values] * 3 if isinstance(values, int | float) else values))
        if not all(math.isfinite(value) and (value > 0 or not positive) for value in (first, second, third)):
            raise ValueError("no such number")
    except (TypeError, ValueError) as error:
        kind = "positive numbers" if positive else "numbers"
        raise WeightsError(f"{what} is {values!r}; expected three {kind}, or one for all") from error
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
