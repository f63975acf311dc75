"""Reading of checkpoints that hold more than tensors."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ovseg.checkpoint.nesting import unwrap
from ovseg.checkpoint.pickles import read_pickle
from ovseg.checkpoint.scripted import is_scripted, read_scripted
from ovseg.errors import WeightsError


class Raw(NamedTuple):
    """What a file holds, as it was read.

    Attributes:
        content: Ordinarily a mapping.
        scripted: Whether it is an archive of TorchScript.
        remarks: What it says of itself besides: the metadata of safetensors.
    """

    content: Any
    scripted: bool
    remarks: dict[str, str]


def read_part(path: str | Path, part: str) -> dict[str, Tensor]:
    """Read the tensors of one part of a pickled dict, or all tensors of a file that has no such part.

    Nothing but tensors and plain values is unpickled; see `ovseg.checkpoint.pickles`.

    Args:
        path: Safetensors or a pickle.
        part: Key of the part, such as ``model_state_dict``.

    Raises:
        WeightsError: The file is missing, truncated, holds anything but tensors, or would run code.
    """
    path = Path(path)
    raw = read_raw(path).content
    if isinstance(raw, Mapping) and isinstance(raw.get(part), Mapping):
        return only_tensors({str(key): value for key, value in raw[part].items()}, path)
    return _tensors(raw, path)


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a weights file without running any code of it; for those of a CLIP see `clip_files`.

    Raises:
        WeightsError: The file is missing, truncated, holds anything but tensors, or would run code.
    """
    return _tensors(read_raw(Path(path)).content, Path(path))


def _tensors(raw: Any, path: Path) -> dict[str, Tensor]:
    return only_tensors(unwrap(a_mapping(raw, path)).state, path)


def a_mapping(raw: Any, path: str | Path) -> Mapping[Any, Any]:
    """Return what was read of a file if it is a mapping with something in it.

    Raises:
        WeightsError: It is not.
    """
    if not isinstance(raw, Mapping) or not raw:
        raise WeightsError(f"{path} holds a {type(raw).__name__}; expected a state dict: tensors by name")
    return raw


def only_tensors(state: Mapping[str, Any], path: str | Path) -> dict[str, Tensor]:
    """Return a state dict whose arrays of NumPy are tensors, too.

    Raises:
        WeightsError: It holds what is no tensor with values; names the first.
    """
    found = {key: _tensor(value) if _is_array(value) else value for key, value in state.items()}
    strange = [key for key, value in found.items() if not isinstance(value, Tensor)]
    if strange:
        raise WeightsError(f"{path} holds '{strange[0]}', which is no tensor; expected a state dict: tensors by name")
    if bare := [key for key, value in found.items() if value.layout != torch.strided or value.is_meta]:
        what = "a place without values" if found[bare[0]].is_meta else "a sparse tensor"
        raise WeightsError(f"{path} holds '{bare[0]}', which is {what}; expected dense tensors: save it anew")
    return found


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biuf" and value.dtype.itemsize <= 8


def _tensor(array: Any) -> Tensor:
    """Return an array as a tensor, whose bytes are in the order of this machine."""
    return torch.as_tensor(np.asarray(array).astype(array.dtype.newbyteorder("="), copy=False))


def read_raw(path: Path) -> Raw:
    """Read what a file holds, without running any code of it.

    Raises:
        WeightsError: It is missing or cannot be read, or would run code.
    """
    if not os.path.isfile(path):  # it is no error that a name is too long for a file, as it is of pathlib
        found = "is a folder" if os.path.isdir(path) else "does not exist"
        raise WeightsError(f"weights file {path} {found}; expected a .safetensors, .pt or .bin file")
    try:
        return _read_any(path)
    except WeightsError:
        raise
    except Exception as error:  # the unpickler of torch raises nearly anything on foreign bytes
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise WeightsError(f"{path} cannot be read ({reason}); expected tensors only: get it again") from error


def _what_else(start: bytes) -> str:
    """Return what a file is that lies where weights should, and the mend, by its first 512 bytes; empty for neither."""
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    if not text:
        return "empty; get it again"
    if text.startswith(b"version https://git-lfs"):
        return "the pointer that git-lfs keeps in its place; fetch it with `git lfs pull`"
    if text.startswith(b"<"):
        return "a web page, of an error or a login perhaps; look at it in a browser, and get the file again"
    if all(byte in b"\t\r\n" or byte >= 32 for byte in start) and start.isascii():
        return f"text ('{' '.join(start[:60].decode().split())}'); get it again"
    if start.startswith(b"sys_info\0") or start.startswith(b"pickle\0"):
        return "a tar of PyTorch 0.1; load it with a PyTorch of that age, and save it anew"
    if start.startswith(b"\x1f\x8b") or start[257:262] == b"ustar":
        return "an archive (gzip or tar); unpack it"
    return ""


def _is_npz(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    return bool(names) and all(name.endswith(".npy") for name in names)


def _read_any(path: Path) -> Raw:
    """Read a file by its content, whatever its suffix: safetensors, TorchScript archive, or tensors in a pickle."""
    with path.open("rb") as file:
        start = file.read(512)
    safetensors = start[5:9] == b"\0\0\0{"  # behind the size of what follows
    if not safetensors and (other := _what_else(start)):
        raise WeightsError(f"{path} cannot be read: it is {other}")
    if safetensors:
        from safetensors import SafetensorError, safe_open
        from safetensors.torch import load_file

        try:
            with safe_open(path, "pt") as opened:
                remarks = opened.metadata() or {}
            return Raw(load_file(path), False, remarks)
        except SafetensorError as error:
            raise ValueError(str(error)) from error
    if zipfile.is_zipfile(path):
        if is_scripted(path):
            return Raw(read_scripted(path), True, {})
        if _is_npz(path):
            with np.load(path, allow_pickle=False) as arrays:
                return Raw({key: arrays[key] for key in arrays.files}, False, {})
    return Raw(read_pickle(path), False, {})
