"""What a CLIP is called in the name of a model, behind ``METHOD/``; alone, hub names and ensembles are plain CLIP.

- ``mini``: that of a card;
- ``ViT-B-16/openai``: an architecture of open_clip and a tag, or the path of a weights file (an index of shards, a
  folder with weights) in any layout;
- ``path/to/folder``: with ``open_clip_config.json``, or ``config.json`` of transformers;
- ``hf:OWNER/NAME``, ``hf-hub:OWNER/NAME``: a repository of the hub in the layout of transformers or of open_clip, with
  ``@REVISION`` behind it where not main is meant;
- ``clip:A+B``: an ensemble of any of these; see `ovseg.clip.ensemble`.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ovseg.errors import UnknownNameError, WeightsError

PATH_START = ("/", "./", "../", "~", ".\\", "..\\")
CLIP_CONFIGS = ("open_clip_config.json", "config.json")
_ENSEMBLE, _PLUS, _HUB = "clip:", "+", ("hf:", "hf-hub:")


def clip(**options: Any) -> dict[str, Any]:
    """Return settings of ``MODEL.CLIP``."""
    return {"MODEL": {"CLIP": options}}


def is_clip(name: str) -> bool:
    """Tell whether a name says itself that it is one of a CLIP: a repository of the hub, or an ensemble."""
    return name.startswith((_ENSEMBLE, *_HUB))


def clip_source(method: str, rest: str, cards: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings for the CLIP of a name.

    Args:
        method: What stands before it, for messages.
        rest: See the top of this file.
        cards: Folders of the CLIPs that have a card, by its name.

    Raises:
        UnknownNameError: It is none of these; says what is near.
        WeightsError: It is a path that leads to no folder, or a file without an architecture.
    """
    if not rest.startswith(_ENSEMBLE):
        return clip(**_one(method, rest, cards))
    names = [name.strip() for name in rest.removeprefix(_ENSEMBLE).split(_PLUS)]
    if len(names) < 2 or not all(names):
        raise UnknownNameError(
            f"'{rest}' is no ensemble; expected {_ENSEMBLE}A{_PLUS}B, such as "
            f"'{method}/{_ENSEMBLE}ViT-B-16/openai{_PLUS}ViT-L-14/openai'"
        )
    members = [_one(method, name, cards) for name in names]
    return clip(MEMBERS=[one.get("FOLDER") or f"{one['ARCH']}/{one['PRETRAINED']}" for one in members])


def _one(method: str, rest: str, cards: Mapping[str, str]) -> dict[str, str]:
    """Return the settings for one CLIP."""
    if rest in cards:
        return {"FOLDER": cards[rest]}
    if rest.startswith(_HUB):
        return {"FOLDER": _repository(rest)}
    path = os.path.expanduser(rest)
    if os.path.isdir(path):  # absolute: "./mini" is a folder, "mini" in a config an embedded one
        return {"FOLDER": str(Path(path).resolve())}
    if os.path.isfile(path):
        raise WeightsError(f"'{rest}' is a weights file; say its architecture too: '{method}/ViT-B-16/{rest}'")
    if rest.startswith(PATH_START):
        raise WeightsError(f"folder '{rest}' does not exist; check the path (relative paths start at {Path.cwd()})")
    architecture, slash, pretrained = rest.partition("/")
    if slash and pretrained:
        expanded = os.path.expanduser(pretrained) if pretrained.startswith("~") else pretrained
        return {"ARCH": architecture, "PRETRAINED": expanded}
    near = difflib.get_close_matches(rest, cards, n=1, cutoff=0.5)
    hint = f"did you mean '{method}/{near[0]}'?" if near else f"expected for example '{method}/ViT-B-16/openai'"
    raise UnknownNameError(
        f"'{rest}' in '{method}/{rest}' names neither a card nor a folder nor ARCHITECTURE/TAG; {hint}"
    )


def _repository(name: str) -> str:
    from ovseg.clip.folders import repository

    repository(name)  # says what is wrong with it
    return name
