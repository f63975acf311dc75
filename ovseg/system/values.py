"""Plain values: nested mappings merged, and JSON text."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from ovseg.errors import InputError


def plain(meta: dict[str, Any]) -> dict[str, Any]:
    """Turn the meta data into plain JSON values: paths to text, numpy numbers to Python's.

    Raises:
        InputError: Something in it has no JSON form.
    """

    def convert(value: Any) -> Any:
        if isinstance(value, os.PathLike):
            return os.fspath(value)
        if isinstance(value, (np.generic, np.ndarray)):
            return value.tolist()
        raise TypeError(f"a {type(value).__name__}")

    try:
        return json.loads(json.dumps(meta, default=convert, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError(f"meta cannot be written as JSON ({error}); expected text, numbers, lists, dicts") from error


def dump(value: Any, indent: int | None = None) -> str:
    """Write JSON values as text, names in their own script.

    What Python makes of a file name that is no UTF-8 (`os.fsdecode`) has no letters; it is written as JSON's escapes,
    so that reading it gives the same name back.
    """
    text = json.dumps(value, ensure_ascii=False, indent=indent, allow_nan=False)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def short_hash(content: str | bytes) -> str:
    """Return the first 16 hex digits of the SHA-256 of a content; the same in every process."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()[:16]


def options_in_force(of: object) -> dict[str, Any]:
    """Return the public attributes of an object that are numbers, words or lists of such, as JSON values."""
    own = {key: value for key, value in vars(of).items() if not key.startswith("_") and key != "training"}
    simple = {key: list(value) if isinstance(value, tuple) else value for key, value in own.items()}
    return {key: value for key, value in simple.items() if isinstance(value, bool | int | float | str | list)}


def merge(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Merge nested mappings; the second wins. Neither is changed."""
    merged = dict(first)
    for key, value in second.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged
