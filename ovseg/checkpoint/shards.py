"""Weights that are cut into several files, with an index that says which tensor is where."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ovseg.checkpoint.files import Raw, a_mapping, only_tensors, read_raw
from ovseg.errors import WeightsError
from ovseg.system.values import some

INDEX = ".index.json"
FOLDER_WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
    "model.safetensors",
    f"model.safetensors{INDEX}",
    "pytorch_model.bin",
    f"pytorch_model.bin{INDEX}",
)
"""What the weights of a folder are called by open_clip and by transformers, the first that is there."""
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.\w+)")


def weights_of(folder: Path) -> Path:
    """Return the weights of a folder: a file, or an index.

    Raises:
        WeightsError: There are none.
    """
    for name in FOLDER_WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise WeightsError(f"{folder} holds no weights; expected {' or '.join(FOLDER_WEIGHTS)}")


def read_whole(path: Path) -> Raw:
    """Read a file, or all files that an index names; errors are those of `ovseg.checkpoint.files.read_raw`.

    Raises:
        WeightsError: An index is broken, or a file of it missing; or a file is one part of several.
    """
    if path.name.endswith(INDEX):
        return Raw(_read_shards(path), False, {})
    if (part := _SHARD.fullmatch(path.name)) and int(part[3]) > 1:
        raise WeightsError(
            f"{path} is part {int(part[2])} of {int(part[3])}; give the index, {part[1]}{part[4]}{INDEX}, or the folder"
        )
    return read_raw(path)


def _read_shards(index: Path) -> dict[str, Tensor]:
    """Read the tensors of all parts, each from the part that the index names."""
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = sorted({str(name) for name in places.values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{index} is no index of weights ({error}); expected JSON with weight_map") from error
    if wrong := [name for name in files if Path(name).name != name]:
        raise WeightsError(f"{index} names '{wrong[0]}'; expected files beside it")
    if missing := [name for name in files if not os.path.isfile(index.parent / name)]:
        raise WeightsError(f"{index} names {some(missing)}, which are missing; get all {len(files)} files")
    found: dict[str, Tensor] = {}
    for name in files:
        file = index.parent / name
        part = only_tensors(a_mapping(read_raw(file).content, file), file)
        found |= {key: value for key, value in part.items() if places.get(key) == name}
    return _whole(found, places, index)


def _whole(found: dict[str, Tensor], places: Mapping[str, str], index: Path) -> dict[str, Tensor]:
    if missing := [key for key in places if key not in found]:
        raise WeightsError(f"{index} names {some(missing)}, which its files do not hold; get them anew")
    return found
