"""Reading of checkpoints that hold more than tensors."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ovseg.checkpoint.pickles import read_pickle
from ovseg.checkpoint.scripted import is_scripted, read_scripted
from ovseg.errors import WeightsError

_OPENAI_EXTRAS = ("input_resolution", "context_length", "vocab_size")


class WeightsFile(NamedTuple):
    """What a weights file holds.

    Attributes:
        tensors: By key.
        openai_layout: Whether it is in OpenAI's layout: a TorchScript archive, or with its three extra keys.
        remarks: What it says of itself besides, in words: the metadata of safetensors, the strings beside a state dict.
    """

    tensors: dict[str, Tensor]
    openai_layout: bool
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
    read = _read(path)
    if isinstance(read[0], Mapping) and isinstance(read[0].get(part), Mapping):
        return _only_tensors({str(key): value for key, value in read[0][part].items()}, path)
    return _weights(path, *read).tensors


def read_state_dict(path: str | Path) -> tuple[dict[str, Tensor], bool]:
    """Read the tensors of a weights file without running any code of it.

    Returns:
        The tensors by key, and whether the file is in OpenAI's layout (a TorchScript archive or its three extra keys).

    Raises:
        WeightsError: The file is missing, truncated, holds anything but tensors, or would run code.
    """
    found = read_weights(path)
    return found.tensors, found.openai_layout


def read_weights(path: str | Path) -> WeightsFile:
    """Read a weights file with what it says of itself; errors are those of `read_state_dict`."""
    return _weights(Path(path), *_read(Path(path)))


def _weights(path: Path, raw: Any, scripted: bool, remarks: dict[str, str]) -> WeightsFile:
    """Return the tensors of what was read of a file."""
    if isinstance(raw, Mapping) and isinstance(raw.get("state_dict"), Mapping):
        remarks = {str(key): value for key, value in raw.items() if isinstance(value, str)}
        raw = raw["state_dict"]
    if not isinstance(raw, Mapping) or not raw:
        raise WeightsError(f"{path} holds a {type(raw).__name__}; expected a state dict: tensors by name")
    prefix = "module." if all(str(key).startswith("module.") for key in raw) else ""
    state = {str(key)[len(prefix) :]: value for key, value in raw.items()}
    openai_layout = scripted or any(key in state for key in _OPENAI_EXTRAS)
    for key in _OPENAI_EXTRAS:
        state.pop(key, None)
    return WeightsFile(_only_tensors(state, path), openai_layout, remarks)


def _only_tensors(state: dict[str, Any], path: str | Path) -> dict[str, Tensor]:
    """Return a state dict whose arrays of NumPy are tensors, too."""
    found = {key: torch.as_tensor(value) if _is_array(value) else value for key, value in state.items()}
    strange = [key for key, value in found.items() if not isinstance(value, Tensor)]
    if strange:
        raise WeightsError(f"{path} holds '{strange[0]}', which is no tensor; expected a state dict: tensors by name")
    if bare := [key for key, value in found.items() if value.layout != torch.strided or value.is_meta]:
        what = "a place without values" if found[bare[0]].is_meta else "a sparse tensor"
        raise WeightsError(f"{path} holds '{bare[0]}', which is {what}; expected dense tensors: save it anew")
    return found


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biuf"


def _read(path: Path) -> tuple[Any, bool, dict[str, str]]:
    """Return what a file holds, whether it is a TorchScript archive, and what it says of itself."""
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
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
    if start.startswith(b"\x1f\x8b") or start[257:262] == b"ustar":
        return "an archive (gzip or tar); unpack it"
    return ""


def _read_any(path: Path) -> tuple[Any, bool, dict[str, str]]:
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
            return load_file(path), False, remarks
        except SafetensorError as error:
            raise ValueError(str(error)) from error
    if zipfile.is_zipfile(path) and is_scripted(path):
        return read_scripted(path), True, {}
    return read_pickle(path), False, {}
