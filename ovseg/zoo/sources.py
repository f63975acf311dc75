"""Where every setting of a model comes from: a file of ``configs/`` and what that file says of its own source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from ovseg.config import config_root


def setting_sources(path: Path, changes: Mapping[str, Any]) -> dict[str, str]:
    """Return where the settings come from, by dotted key such as ``MODEL.PROTOCOL.WINDOW``; defaults are not in it.

    Args:
        path: A config, with the files it is based on.
        changes: What is applied over it.
    """
    found: dict[str, str] = {}
    said = ""
    for file, settings in read_chain(path):
        said = settings.get("MODEL", {}).get("SOURCE", said)  # the files of benchmarks share that of their method
        found |= dict.fromkeys(_leaves(settings), f"{_shown(file)}{f' ({said})' if said else ''}")
    return found | dict.fromkeys(_leaves(changes), "the name or protocol that was asked for")


def read_chain(path: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Read a config and the files it is based on, the most basic first."""
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    base = settings.pop("_BASE_", None)
    return [*(read_chain(path.parent / base) if base else []), (path, settings)]


def _leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _shown(path: Path) -> str:
    full, root = path.resolve(), config_root().resolve()
    return full.relative_to(root).as_posix() if full.is_relative_to(root) else str(path)
