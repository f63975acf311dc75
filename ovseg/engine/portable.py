"""A config without what belongs to the machine that wrote it: data sets, folders, devices."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

from ovseg.clip.folders import locate, repository
from ovseg.config import TABLES
from ovseg.errors import WeightsError

_ASSETS = Path(__file__).resolve().parents[1] / "assets"
_OF_THE_RUN = ("DATASETS", "OUTPUT_DIR", "DATALOADER", *TABLES)
_TRAINED_WORDS = "TRAINED_VOCABULARY"  # takes the words beside the weights where it is empty
_NAMED = ("MODEL.CLIP.FOLDER", "MODEL.CLIP.PRETRAINED", "MODEL.CLIP.MEMBERS")  # what is a path even as a bare name


def portable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a run as others can use them; a CLIP of the package is named as such.

    Args:
        settings: Nested, as ``config.yaml`` in the folder of a run has them.

    Raises:
        WeightsError: The model needs a file or folder that only this machine has.
    """
    kept = {key: value for key, value in settings.items() if key not in _OF_THE_RUN}
    model = {key: value for key, value in kept.get("MODEL", {}).items() if key not in ("DEVICE", "WEIGHTS")}
    if "TEXT" in model:  # the words are those beside the weights
        model["TEXT"] = {key: value for key, value in model["TEXT"].items() if key != "VOCABULARY"}
    for kind, section in model.items():  # but an adapter's head has words of its own
        if isinstance(section, Mapping) and _TRAINED_WORDS in section and not section.get("ADAPTER"):
            model[kind] = {**section, _TRAINED_WORDS: ""}
    return {key: _without_places(value, key) for key, value in {**kept, "MODEL": model}.items()}


def _without_places(value: Any, key: str) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_places(own, f"{key}.{name}") for name, own in value.items()}
    if isinstance(value, list | tuple):
        return [_without_places(own, key) for own in value]
    if not isinstance(value, str) or not value:
        return value
    path = Path(os.path.expanduser(value))
    if path.is_absolute() and path.resolve().is_relative_to(_ASSETS):
        return path.resolve().relative_to(_ASSETS).as_posix()
    if _is_here(value, key):
        mend = "name it by a repository that others can reach (hf-hub:OWNER/NAME) or a tag of open_clip"
        raise WeightsError(f"{key} is '{value}', which only this machine has; {mend}, and train or export anew")
    return value


def _is_here(text: str, key: str) -> bool:
    """Tell whether a value is a place on this machine."""
    place = os.path.expanduser(text)
    if os.path.isabs(place) or PureWindowsPath(text).is_absolute() or text.startswith(("./", "../", "~")):
        return True
    if key in _NAMED:
        embedded = (_ASSETS / text).is_dir()
        return not embedded and repository(text) is None and os.path.exists(locate(text))
    return (os.sep in text or "." in text) and os.path.exists(place)
