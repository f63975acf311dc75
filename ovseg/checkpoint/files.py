"""Reading of checkpoints that hold more than tensors."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ovseg.errors import WeightsError
from ovseg.system.device import CPU

_OPENAI_EXTRAS = ("input_resolution", "context_length", "vocab_size")


def read_part(path: str | Path, part: str) -> dict[str, Tensor]:
    """Read the tensors of one part of a pickled dict, or all tensors of a file that has no such part.

    Nothing but tensors and plain values is unpickled.

    Args:
        path: Safetensors or a pickle.
        part: Key of the part, such as ``model_state_dict``.

    Raises:
        WeightsError: The file is missing, truncated, or holds anything but tensors.
    """
    try:
        raw: Any = torch.load(path, map_location=CPU, weights_only=True)
    except Exception:  # safetensors, or broken: then the general reader says so
        raw = None
    if isinstance(raw, Mapping) and isinstance(raw.get(part), Mapping):
        return _only_tensors({str(key): value for key, value in raw[part].items()}, path)
    return read_state_dict(path)[0]


def read_state_dict(path: str | Path) -> tuple[dict[str, Tensor], bool]:
    """Read the tensors of a weights file without running any code of it.

    Returns:
        The tensors by key, and whether the file is in OpenAI's layout (a TorchScript archive or its three extra keys).

    Raises:
        WeightsError: The file is missing, truncated, or holds anything but tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"weights file {path} does not exist; expected a .safetensors, .pt or .bin file")
    try:
        raw, scripted = _read_any(path)
    except Exception as error:  # the unpickler of torch raises nearly anything on foreign bytes
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise WeightsError(f"{path} cannot be read ({reason}); expected tensors only: get it again") from error
    if isinstance(raw, Mapping) and isinstance(raw.get("state_dict"), Mapping):
        raw = raw["state_dict"]
    if not isinstance(raw, Mapping) or not raw:
        raise WeightsError(f"{path} holds a {type(raw).__name__}; expected a state dict: tensors by name")
    prefix = "module." if all(str(key).startswith("module.") for key in raw) else ""
    state = {str(key)[len(prefix) :]: value for key, value in raw.items()}
    openai_layout = scripted or any(key in state for key in _OPENAI_EXTRAS)
    for key in _OPENAI_EXTRAS:
        state.pop(key, None)
    return _only_tensors(state, path), openai_layout


def _only_tensors(state: dict[str, Any], path: str | Path) -> dict[str, Tensor]:
    strange = [key for key, value in state.items() if not isinstance(value, Tensor)]
    if strange:
        raise WeightsError(f"{path} holds '{strange[0]}', which is no tensor; expected a state dict: tensors by name")
    return state


def _read_any(path: Path) -> tuple[Any, bool]:
    """Read a file by its content, whatever its suffix: safetensors, TorchScript archive, or tensors in a pickle."""
    with path.open("rb") as file:
        start = file.read(9)
    if len(start) == 9 and start[8:] == b"{":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path), False
        except SafetensorError as error:
            raise ValueError(str(error)) from error
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            scripted = any(entry.endswith("/constants.pkl") for entry in archive.namelist())
        if scripted:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # deprecated, but OpenAI's own files are such archives
                return dict(torch.jit.load(str(path), map_location=CPU).state_dict()), True
    return torch.load(path, map_location=CPU, weights_only=True), False
