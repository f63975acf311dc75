"""Models that were trained here and shared through a hub: ``hf:OWNER/NAME``; see `ovseg.engine.sharing`.

The same name may mean a CLIP in the layout of transformers; what the repository holds decides.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ovseg.checkpoint.hub import fetch_repository, layout_of

if TYPE_CHECKING:
    from ovseg.clip.folders import Repository

LAYOUT = "ovseg"
_PREFIX = "hf:"


def shared_repository(name: str) -> Repository | None:
    """Return the repository that a name means, if it holds a trained model; None of every other name.

    Raises:
        WeightsError: The name says ``hf:``, and no repository behind it.
    """
    if not name.startswith(_PREFIX):
        return None
    from ovseg.clip.folders import repository  # it brings PyTorch, which names do without

    found = repository(name)
    if found is None or layout_of(found.name, found.revision, ("hf", LAYOUT)) != LAYOUT:
        return None
    return found._replace(layout=LAYOUT)


def shared_folder(name: str) -> Path | None:
    """Return the folder of a shared model, fetched unless it is on this disk; None of every other name.

    Raises:
        DownloadRefused: Nobody agreed to a large download.
        DownloadError: It is not here and cannot be fetched.
    """
    found = shared_repository(name)
    return fetch_repository(found.name, LAYOUT, found.revision, name=name) if found else None
