"""Where downloads and text embeddings are kept between runs, and what becomes of libraries that have no such place."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

from ovseg.errors import EnvironmentProblem

VARIABLE = "OVSEG_CACHE"

# What libraries read at their import: where they keep what can be made again, and where they download to.
_MADE_AGAIN = ("MPLCONFIGDIR", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
_DOWNLOADS = ("HF_HOME", "TORCH_HOME", "FVCORE_CACHE")


def cache_path() -> Path:
    """Return where the cache folder is or would be.

    It is what the environment variable ``OVSEG_CACHE`` names, else the platform's own place: ``$XDG_CACHE_HOME/ovseg``
    or ``~/.cache/ovseg``, on macOS ``~/Library/Caches/ovseg``, on Windows ``%LOCALAPPDATA%/ovseg``.

    Raises:
        EnvironmentProblem: Nothing is named and the user has no home, as in a container with an unknown user.
    """
    named = os.environ.get(VARIABLE)
    return Path(os.path.expanduser(named)) if named else platform_cache() / "ovseg"


def cache_dir() -> Path:
    """Return the cache folder of `cache_path`, created if it does not exist yet.

    Raises:
        EnvironmentProblem: The folder cannot be created, or there is no place for it.
    """
    folder = cache_path()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EnvironmentProblem(
            f"cannot create the cache folder {folder} ({error.strerror}); expected a folder that can be written: "
            f"set one with `{cache_advice()}`"
        ) from error
    return folder


def cache_advice() -> str:
    """Return a line for the shell that names a cache folder which can be written."""
    home = user_home()
    if home is not None and os.access(home, os.W_OK | os.X_OK):
        return f'export {VARIABLE}="{"$HOME" if "HOME" in os.environ else home}/ovseg-cache"'
    try:
        return f"export {VARIABLE}={tempfile.gettempdir()}/ovseg-cache-{os.getuid() if hasattr(os, 'getuid') else 0}"
    except OSError:  # nothing can be written, not even the folders for temporary files
        return f"export {VARIABLE}=/a/folder/that/you/may/write/to"


def user_home() -> Path | None:
    """Return the user's home; None where neither ``HOME`` nor the list of users knows it."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def platform_cache() -> Path:
    """Return the folder in which this operating system wants programs to keep their caches.

    Raises:
        EnvironmentProblem: The user has no home.
    """
    named = os.environ.get({"win32": "LOCALAPPDATA", "darwin": ""}.get(sys.platform, "XDG_CACHE_HOME"))
    if named:
        return Path(named)
    home = user_home()
    if home is None:
        raise EnvironmentProblem(
            f"there is no place for the cache: HOME is not set and no home is known of this user; "
            f"set one with `{cache_advice()}`"
        )
    if sys.platform == "darwin":
        return home / "Library" / "Caches"
    return home / "AppData" / "Local" if sys.platform == "win32" else home / ".cache"


def house_libraries() -> None:
    """Let libraries keep their files in our cache folder where the user has no home that can be written.

    Where that cannot be written either, they get a temporary folder for what they can make again. What the environment
    says already stays. Has to be called before they are imported.
    """
    home = user_home()
    if home is not None and os.access(home / ".cache" if (home / ".cache").is_dir() else home, os.W_OK | os.X_OK):
        return
    try:
        place = cache_dir()
        named = (*_MADE_AGAIN, *_DOWNLOADS) if os.access(place, os.W_OK | os.X_OK) else _MADE_AGAIN
    except EnvironmentProblem:
        named = _MADE_AGAIN
    missing = [variable for variable in named if variable not in os.environ]
    if named is _MADE_AGAIN and missing:
        try:
            place = Path(tempfile.mkdtemp(prefix="ovseg-"))
        except OSError:  # then they find out by themselves
            return
        atexit.register(shutil.rmtree, place, ignore_errors=True)
    for variable in missing:
        os.environ[variable] = str(place / variable.lower())
