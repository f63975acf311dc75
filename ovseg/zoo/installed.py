"""What is on this disk of what cards name: found by content, whole and sound; no network is asked."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from ovseg.checkpoint.hub import Source, local
from ovseg.errors import EnvironmentProblem
from ovseg.zoo.card import Card, place


def on_disk(card: Card) -> Path | None:
    """Return the released file of a card, if it lies here whole: one that was fetched, or put in its place by hand."""
    if card.weights != "released":
        return None
    source = Source(card.hub, card.file, sha256=card.sha256, licence=card.weights_licence) if card.hub else None
    if source and (path := local(source)) and is_whole(path):
        return path
    try:
        path = place(card)
    except EnvironmentProblem:  # no home, no cache
        return None
    return path if path.is_file() and is_whole(path) else None


def is_whole(path: Path) -> bool:
    """Tell whether a file of weights reaches to its end: half of one names more than it holds, or has lost its index.

    It reads a few bytes. Files of PyTorch before 1.6, which say nothing of their length, count as whole unless empty.
    """
    try:
        with path.open("rb") as file:
            start = file.read(8)
            size = path.stat().st_size
            if start.startswith(b"PK"):
                return zipfile.is_zipfile(path)
            if path.suffix != ".safetensors":
                return size > 0
            header = int.from_bytes(start, "little")
            entries = json.loads(file.read(header)) if 0 < header < size else {}
            ends = [entry["data_offsets"][1] for key, entry in entries.items() if key != "__metadata__"]
            return bool(ends) and 8 + header + max(ends) == size
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False
