"""Class lists of well-known benchmarks, shipped as JSON files in `presets`."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from ovseg.errors import UnknownNameError, unknown_name

_FOLDER = Path(__file__).with_name("presets")
# What names of benchmarks look like: a word, then a number, as in ade150, voc-21, ade20k.
_PRESET_LIKE = re.compile(r"[a-z]+[-_]?[0-9]+[a-z]?", re.IGNORECASE)


def list_presets() -> list[str]:
    """Return the names of all shipped class lists, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.json"))


def is_preset(*words: str) -> bool:
    """Return whether any of the words is the name of a preset, case ignored."""
    return not {word.strip().casefold() for word in words}.isdisjoint(list_presets())


def find_preset(word: str) -> Path | None:
    """Return the file of the preset that a lone word names (case ignored), or None for an ordinary word.

    Raises:
        UnknownNameError: The word is no preset, but resembles one so much that taking it for a class would hide a
            typing error.
    """
    names = list_presets()
    key = word.casefold()
    if key in names:
        return _FOLDER / f"{key}.json"
    if _PRESET_LIKE.fullmatch(word) or difflib.get_close_matches(key, names, n=1, cutoff=0.75):
        reason = unknown_name("vocabulary preset", word, names)
        raise UnknownNameError(f"{reason} (for a class of that name put a comma behind it: '{word},')")
    return None
