"""Plain values: nested mappings merged, and JSON text."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
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


def is_utf8(name: str) -> bool:
    """Tell whether the name of a file can stand in a text; Python marks bytes that cannot by halves of letters."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def some(names: Sequence[str], most: int = 3) -> str:
    """Return the first names of a list in one line, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def short_hash(content: str | bytes) -> str:
    """Return the first 16 hex digits of the SHA-256 of a content; the same in every process."""
    return hashlib.sha256(
        content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    ).hexdigest()[:16]


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


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of a nested mapping by their dotted keys; an empty mapping is a value."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        inner = isinstance(value, Mapping) and value
        found |= flat(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return found


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Say what is not the same in two nested mappings: a line for each value, by its dotted key."""
    was, is_ = flat(before), flat(now)
    pairs = {key: (was.get(key), is_.get(key)) for key in dict.fromkeys([*was, *is_])}
    return [f"{key} was {_short(a)}, is {_short(b)}" for key, (a, b) in pairs.items() if a != b]


def _short(value: Any) -> str:
    text = value if isinstance(value, str) and value else dump(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
