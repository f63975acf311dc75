"""What makes the results of a job, by content, so that no results of two makings meet in one folder.

Names and paths are in none of it: a model in another place is the same. Versions of other packages refuse nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovseg._version import __version__
from ovseg.contract import Words
from ovseg.errors import InputError
from ovseg.system.values import dump, short_hash
from ovseg.vocabulary import resolve_templates

if TYPE_CHECKING:
    from ovseg.segmenter import Segmenter

SAID = 6
"""So many differences are spelled out."""


def describe(segmenter: Segmenter, words: Words) -> dict[str, Any]:
    """Return what makes predictions, as JSON values."""
    model = segmenter.model
    return {
        "model": segmenter.name,
        "weights_hash": model.weights_hash,
        "settings": model.settings,
        "background": words.background.policy,
        "templates": words.templates,
        "texts": short_hash(dump([list(words.texts), list(resolve_templates(words.templates))])),
        "notes": list(words.notes),
        "device": str(segmenter.device).partition(":")[0],
        "dtype": str(segmenter.dtype).removeprefix("torch."),
    }


def made_by(description: dict[str, Any]) -> dict[str, Any]:
    """Return what of a description makes results; the rest is names, paths, remarks and versions."""
    keys = ("weights_hash", "settings", "background", "templates", "texts", "no_class_as", "asked", "device", "dtype")
    found = {key: description[key] for key in keys if key in description}
    return {**found, "settings": {key: value for key, value in found.get("settings", {}).items() if key != "clip"}}


def refuse(folder: str | Path, holds: str, changed: Sequence[str]) -> None:
    """Refuse to go on in a folder where anything has changed that makes results.

    Args:
        folder: Of the job.
        holds: What it holds, such as ``"numbers"``.
        changed: What has changed, a line each.

    Raises:
        InputError: Something has.
    """
    if changed:
        more = f"; and {len(changed) - SAID} more" if len(changed) > SAID else ""
        raise InputError(
            f"'{folder}' holds {holds} of something else: {'; '.join(changed[:SAID])}{more}; start anew with --fresh, "
            "which deletes what that run wrote, or choose another --output"
        )


def refuse_strange(rank: int, changed: Sequence[str]) -> None:
    """Refuse a process that has loaded something else than the first.

    Raises:
        InputError: It has.
    """
    if changed:
        raise InputError(
            f"process {rank + 1} has loaded something else than the first ({'; '.join(changed)}); expected the same "
            "model and device everywhere, and files that nobody writes to"
        )


def versions() -> dict[str, str]:
    """Return the versions of what makes results."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version(), "ovseg": __version__}
    for package in ("torch", "torchvision", "open_clip_torch", "detectron2", "numpy", "pycocotools"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # such as Detectron2's Python part
            found[package] = str(getattr(sys.modules.get(package), "__version__", "not installed"))
    return found
