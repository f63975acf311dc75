"""``manifest.json`` of a prepared split: counts, checksums, what is broken, and the versions that made it."""

from __future__ import annotations

import json
from typing import Any

from ovseg.data.benchmarks.base import Place
from ovseg.errors import InputError
from ovseg.system.files import atomic_write

FORMAT = 1
"""Counts changes of the label rules; what another one made is converted anew."""


def read_manifest(place: Place) -> dict[str, Any] | None:
    """Return the manifest of a split, None where there is none (or one of another format).

    Raises:
        InputError: The file is broken.
    """
    path = place.made / "manifest.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found if found["format"] == FORMAT else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"'{path}' is broken ({error}); delete it and run {place.command}") from error


def write_manifest(place: Place, content: dict[str, Any]) -> None:
    """Write the manifest of a split; its folder is made if need be."""
    place.made.mkdir(parents=True, exist_ok=True)
    with atomic_write(place.made / "manifest.json") as temporary:
        temporary.write_text(json.dumps({"format": FORMAT, **content}, indent=1) + "\n", encoding="utf-8")
