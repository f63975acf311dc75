"""What the files of an image are called: its path below the folder that holds all images of the run."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

_DIGITS = 8  # hex digits that tell apart what only the case of letters does


def common_root(paths: Iterable[str | os.PathLike[str]]) -> Path:
    """Return the innermost folder that holds all files; links are not followed.

    Args:
        paths: Of files, at least one.

    Raises:
        ValueError: There are none, or they lie on different drives (Windows).
    """
    return Path(os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths]))


def relative_names(paths: Iterable[str | os.PathLike[str]], root: str | os.PathLike[str]) -> list[str]:
    """Choose what the files that are made of each image are called, without their endings.

    The rule, wherever results are named after images:

    * The path below ``root``, with forward slashes, without the suffix: ``cam1/0001.jpg`` -> ``cam1/0001``.
    * Images that would share it, such as ``a.jpg`` and ``a.png``, all keep their suffix: ``a.jpg``, ``a.png``.
    * Where even those are one file on many disks (``A.jpg``, ``a.jpg``), a hash of it is added: ``a.jpg-1f3a``.

    A name depends on nothing but the set of paths: neither on their order nor on what is in a folder. Another image
    changes only the names that it would have shared. A path that stands twice has one name. Outside of the root ``..``
    becomes ``up``, so that no result leaves its folder.

    Args:
        paths: Of the images; they need not exist.
        root: The folder below which they are named; `common_root` finds one.

    Returns:
        As many names as paths, different for different paths, also where upper and lower case count as the same.
    """
    names = [_below(path, root) for path in paths]
    distinct = set(names)
    whole = Counter(folded(name) for name in distinct)
    claims: dict[str, set[str]] = defaultdict(set)
    for name in distinct:
        claims[folded(name)].add(name)
        claims[folded(_stem(name))].add(name)

    def choose(name: str) -> str:
        if len(claims[folded(_stem(name))]) == 1:
            return _stem(name)
        if whole[folded(name)] == 1:
            return name
        return f"{name}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:_DIGITS]}"

    return [choose(name) for name in names]


def _below(path: str | os.PathLike[str], root: str | os.PathLike[str]) -> str:
    parts = Path(os.path.relpath(path, root)).parts
    return "/".join("up" if part == ".." else part for part in parts)


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def folded(name: str) -> str:
    """Bring to one form what many disks take for the same name."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
