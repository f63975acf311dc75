"""Where downloads and text embeddings are kept between runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ovseg.errors import EnvironmentProblem

VARIABLE = "OVSEG_CACHE"


def cache_dir() -> Path:
    """Return the cache folder, created if it does not exist yet.

    It is what the environment variable ``OVSEG_CACHE`` names, else the platform's own place: ``$XDG_CACHE_HOME/ovseg``
    or ``~/.cache/ovseg``, on macOS ``~/Library/Caches/ovseg``, on Windows ``%LOCALAPPDATA%/ovseg``.

    Raises:
        EnvironmentProblem: The folder cannot be created.
    """
    named = os.environ.get(VARIABLE)
    folder = Path(named).expanduser() if named else platform_cache() / "ovseg"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EnvironmentProblem(
            f"cannot create the cache folder {folder} ({error.strerror}); expected a folder that can be written: "
            f'set one with `export {VARIABLE}="$HOME/ovseg-cache"`'
        ) from error
    return folder


def platform_cache() -> Path:
    """Return the folder in which this operating system wants programs to keep their caches."""
    home = Path.home()
    if sys.platform == "darwin":
        return home / "Library" / "Caches"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
