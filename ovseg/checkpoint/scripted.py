"""TorchScript archives, such as OpenAI's CLIPs, read as data.

``torch.jit.load`` compiles the code that is in them and may run some of it (``__setstate__``). Their tensors are in a
pickle of plain states, one for each module, and the code says in lists of names which of these are parameters and
buffers.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ovseg.checkpoint.pickles import Refused, StandIn, Unpickler
from ovseg.system.device import CPU

_CODE = re.compile(r"[^/]+/code/(__torch__(?:/.+)?)\.py")
_CLASS = re.compile(r"^class (\w+)\(.*\):\n((?:  __\w+__ = .*\n)*)", re.MULTILINE)
_NAMES = re.compile(r"__(?:parameters|buffers)__ = \[(.*)\]")


class _Module(StandIn):
    """A module of an archive, with the values of its attributes."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        """Keep them."""
        self.state = state


class _Unpickler(Unpickler):
    """Knows the modules of an archive, too, and the typed lists of TorchScript."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what a name stands for, or refuse it."""
        if module.partition(".")[0] == "__torch__":
            return type(f"{module}.{name}", (_Module,), {})
        return _first if module == "torch.jit._pickle" else super().find_class(module, name)


def is_scripted(path: Path) -> bool:
    """Tell whether a zip archive is one of TorchScript."""
    with zipfile.ZipFile(path) as archive:
        return any(entry.endswith("/constants.pkl") for entry in archive.namelist())


def read_scripted(path: Path) -> dict[str, Tensor]:
    """Read the parameters and buffers of a TorchScript archive, by the names of its state dict; no code of it runs.

    Raises:
        WeightsError: It names what is no data.
        Exception: Whatever PyTorch raises on foreign or broken bytes.
    """
    with zipfile.ZipFile(path) as archive:
        code = {
            match[1]: archive.read(match[0]).decode() for match in map(_CODE.fullmatch, archive.namelist()) if match
        }
    reader = SimpleNamespace(__name__=__name__, Unpickler=_Unpickler)
    try:
        root = torch.serialization._load(torch._C.PyTorchFileReader(str(path)), CPU, reader)
    except Refused as error:
        raise error.of(path, "get another file") from error
    found: dict[str, Tensor] = {}
    _collect(root, _tensors_of_classes(code), "", found)
    return found


def _tensors_of_classes(code: Mapping[str, str]) -> dict[str, set[str]]:
    """Return the names of the parameters and buffers of each class."""
    return {
        f"{place.replace('/', '.')}.{match[1]}": set(re.findall(r'"([^"]+)"', " ".join(_NAMES.findall(match[2]))))
        for place, text in code.items()
        for match in _CLASS.finditer(text)
    }


def _collect(module: Any, tensors: Mapping[str, set[str]], prefix: str, found: dict[str, Tensor]) -> None:
    if not isinstance(module, _Module) or not isinstance(module.state, dict):
        raise ValueError(f"the state of '{prefix.rstrip('.') or 'its model'}' is of a form that only its code can read")
    own = tensors.get(type(module).__name__, set())
    for key, value in module.state.items():
        if isinstance(value, _Module):
            _collect(value, tensors, f"{prefix}{key}.", found)
        elif key in own and isinstance(value, Tensor):
            found[f"{prefix}{key}"] = value


def _first(value: Any, *_type: Any) -> Any:
    return value
