"""Folders with a CLIP: of open_clip, of transformers, embedded ones, and repositories of the hub.

A folder is named by its path, by a bare name of an embedded one (``mini``), or as a repository: ``hf:OWNER/NAME`` has
the files of transformers (``config.json``), ``hf-hub:OWNER/NAME`` those of open_clip (``open_clip_config.json``).
``@REVISION`` behind it is a branch, a tag or a commit.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from ovseg.checkpoint.hub import OPEN, TOKENIZER, Source, fetch, fetch_repository, local_repository
from ovseg.clip.preprocessing import normalisation, three
from ovseg.clip.transformers_config import open_clip_config
from ovseg.errors import WeightsError
from ovseg.system.files import file_hash

OPEN_CLIP, TRANSFORMERS = "open_clip_config.json", "config.json"
_LAYOUTS = {"hf:": ("hf", TRANSFORMERS), "hf-hub:": ("open_clip", OPEN_CLIP)}
_TOKENIZERS = ("tokenizer.json", "spiece.model", "sentencepiece.bpe.model", "vocab.txt", "vocab.json")


class Repository(NamedTuple):
    """A repository of the hub.

    Attributes:
        name: ``OWNER/NAME``.
        revision: Branch, tag or commit.
        layout: Of `ovseg.checkpoint.hub.fetch_repository`.
        config: Name of its config.
    """

    name: str
    revision: str
    layout: str
    config: str


class FolderConfig(NamedTuple):
    """The config of a folder.

    Attributes:
        model_cfg: As open_clip writes it, wherever it has such a model; else as transformers does.
        preprocess: How images are normalised (``mean``, ``std``).
        file: Where it was read.
    """

    model_cfg: dict[str, Any]
    preprocess: dict[str, Any]
    file: Path


def repository(folder: str | Path) -> Repository | None:
    """Return the repository that a folder's name means; None where it is another folder.

    Raises:
        WeightsError: It names none behind its prefix.
    """
    prefix, colon, rest = str(folder).partition(":")
    layout = _LAYOUTS.get(f"{prefix}{colon}")
    if layout is None:
        return None
    name, _, revision = rest.partition("@")
    if name.count("/") != 1 or not all(name.split("/")):
        raise WeightsError(f"'{folder}' names no repository of the hub; expected {prefix}:OWNER/NAME")
    return Repository(name, revision or "main", *layout)


def locate(folder: str | Path) -> Path:
    """Return where a folder is; a repository is fetched unless it is on this disk.

    Raises:
        WeightsError: It cannot be fetched, or names none.
    """
    if found := repository(folder):
        return fetch_repository(found.name, found.layout, found.revision, name=str(folder))
    embedded = Path(__file__).resolve().parents[1] / "assets" / folder
    return embedded if os.path.isfile(embedded / OPEN_CLIP) else Path(folder)


def name_of(folder: str | Path) -> str:
    """Return what a CLIP in a folder is called: the name of the folder or of the repository."""
    found = repository(folder)
    return found.name if found else locate(folder).resolve().name


def folder_config(folder: str | Path) -> FolderConfig:
    """Read the config of a folder; of a repository that is not on this disk nothing else is fetched.

    Raises:
        WeightsError: There is none, or it cannot be read.
    """
    found = repository(folder)
    if found:
        here = local_repository(found.name, found.layout, found.revision)
        if here is None:
            source = Source(found.name, found.config, found.revision, gated_alternative=OPEN)
            path = fetch(source, name=str(folder))
        else:
            path = here / found.config
    else:
        place = locate(folder)
        configs = [place / name for name in (OPEN_CLIP, TRANSFORMERS)]
        path = next((config for config in configs if os.path.isfile(config)), configs[0])
    if not os.path.isfile(path):
        raise WeightsError(
            f"{path} does not exist; expected a folder with it (or {TRANSFORMERS} of a CLIPModel) and weights"
        )
    config = read_json(path)
    if path.name == OPEN_CLIP:
        try:
            return FolderConfig(dict(config["model_cfg"]), dict(config.get("preprocess_cfg", {})), path)
        except (KeyError, TypeError, ValueError) as error:
            raise WeightsError(f"{path} is not a config ({error}); expected JSON with model_cfg") from error
    return FolderConfig(open_clip_config(config) or config, dict(normalisation(path.parent)), path)


def said_beside(path: Path) -> dict[str, Any]:
    """Return how images are normalised (``mean``, ``std``), as configs beside a weights file say; empty: they do not.

    Raises:
        WeightsError: A config cannot be read, or holds no numbers.
    """
    config = path.with_name(OPEN_CLIP)
    if not config.is_file():
        return dict(normalisation(path.parent))
    said = read_json(config).get("preprocess_cfg")
    found = said if isinstance(said, dict) else {}
    return {
        name: three(found[name], f"{config}: {name}", name == "std")
        for name in ("mean", "std")
        if found.get(name) is not None
    }


def tokenizer_files(folder: Path) -> list[Path]:
    """Return the files of the tokenizer of transformers that a folder holds; none where there is no tokenizer."""
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        return []
    return sorted(file for file in folder.iterdir() if TOKENIZER.fullmatch(file.name))


def hashes_of(files: Iterable[Path]) -> dict[str, str]:
    """Return what files hold, by their names."""
    return {file.name: file_hash(file) for file in files}


def read_json(path: Path) -> dict[str, Any]:
    """Read a config.

    Raises:
        WeightsError: It cannot be read, or holds no mapping.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} is not a config ({error}); expected JSON") from error
    if not isinstance(found, dict):
        raise WeightsError(f"{path} is not a config (it holds a {type(found).__name__}); expected JSON with model_cfg")
    return found
