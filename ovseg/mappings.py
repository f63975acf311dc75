"""Nested mappings: what configs and model configs are made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def merge(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Merge nested mappings; the second wins. Neither is changed."""
    merged = dict(first)
    for key, value in second.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged
