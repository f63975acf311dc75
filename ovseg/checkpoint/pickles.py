"""Checkpoints as PyTorch pickles them, read without running code.

`torch.load` refuses every file that holds more than tensors and plain values, and many published ones do: numbers of
NumPy (an epoch's best score), the arguments of a training, records of a framework. NumPy's numbers and arrays are read
as what they are. Objects of classes that only carry settings or records become empty stand-ins, whatever they hold:
their modules are never imported, and nothing of them is called. Every other name is refused.
"""

from __future__ import annotations

import collections
import pickle
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import torch

from ovseg.errors import WeightsError
from ovseg.system.device import CPU

_RECORDS = (
    "addict",
    "argparse",
    "datetime",
    "detectron2.config",
    "easydict",
    "enum",
    "fvcore.common.config",
    "lightning",
    "ml_collections",
    "mmcv",
    "mmengine",
    "omegaconf",
    "pathlib",
    "pytorch_lightning",
    "types.SimpleNamespace",
    "typing",
    "uuid",
    "yacs",
)
"""What objects in checkpoints are settings and records: modules with all below them, or single classes."""

_NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray")
"""Where NumPy 1 and 2 keep what makes numbers and arrays."""


class StandIn:
    """An object of a checkpoint that is neither a tensor nor a plain value; it drops whatever it is given."""

    def __new__(cls, *_arguments: Any, **_options: Any) -> StandIn:
        """Make one, whatever the arguments."""
        return super().__new__(cls)

    def __init__(self, *_arguments: Any, **_options: Any) -> None:
        """Take whatever a pickle calls its class with."""

    def _drop(self, *_values: Any) -> None:
        """Take part of a state."""

    __setstate__ = __setitem__ = append = extend = add = _drop


class _Refused(pickle.UnpicklingError):
    """A pickle names what is no data."""


def read_pickle(path: Path) -> Any:
    """Read a file of `torch.save`: tensors, plain values, NumPy's numbers and arrays, and stand-ins.

    Args:
        path: The file.

    Raises:
        WeightsError: It names what is neither data nor a record, and could run code.
        Exception: Whatever `torch.load` raises on foreign or broken bytes.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of protocols it may not know: then the reader below does
            return torch.load(path, map_location=CPU, weights_only=True)
    except pickle.UnpicklingError:  # it holds something else; what, the reader below tells
        pass
    reader = SimpleNamespace(__name__=__name__, Unpickler=_Unpickler, load=_load)
    try:
        return torch.load(path, map_location=CPU, weights_only=False, pickle_module=reader)
    except _Refused as error:
        raise WeightsError(
            f"{path} cannot be read: it names {error}, which is no data and could run code; expected tensors and plain "
            'values: get another file or, if you trust its author, keep its tensors alone: python -c "import torch; '
            f"w = torch.load('{path}', 'cpu', weights_only=False); torch.save(w.get('state_dict', w), 'weights.pt')\""
        ) from error


def _load(file: Any, **options: Any) -> Any:
    return _Unpickler(file, **options).load()


# That in Python: the one in C has no way to say which objects may be given a state.
class _Unpickler(pickle._Unpickler):  # type: ignore[misc,name-defined,unused-ignore]
    """Knows the names of data, and of no function but those that make it."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what a name stands for, or refuse it."""
        found = _known().get((module, name))
        if found is not None:
            return found
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if f"{module}.{name}".startswith(tuple(f"{record}." for record in _RECORDS)) or f"{module}.{name}" in _RECORDS:
            return type(f"{module}.{name}", (StandIn,), {})
        raise _Refused(f"{module}.{name}")

    def load_build(self) -> None:
        """Give an object its state, if it is one that only keeps it."""
        owner = self.stack[-2]  # type: ignore[attr-defined,unused-ignore]
        if not isinstance(owner, StandIn | np.ndarray | np.dtype | collections.OrderedDict):
            raise _Refused(f"a state of {type(owner).__name__}")
        super().load_build()  # type: ignore[misc,unused-ignore]

    dispatch: ClassVar[dict[int, Any]] = {**pickle._Unpickler.dispatch, pickle.BUILD[0]: load_build}


def _known() -> dict[tuple[str, str], Any]:
    """Return what makes tensors, plain values, and the numbers and arrays of NumPy, by module and name."""
    makers: dict[tuple[str, str], Any] = {
        **{("torch._utils", name): getattr(torch._utils, name) for name in ("_rebuild_tensor", "_rebuild_tensor_v2")},
        ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
        ("torch.nn.parameter", "Parameter"): torch.nn.Parameter,
        ("torch", "Size"): torch.Size,
        ("torch", "device"): torch.device,
        ("_codecs", "encode"): _encode,
        ("numpy", "dtype"): np.dtype,
        ("numpy", "ndarray"): np.ndarray,
    }
    for module in _NUMPY:
        scalar, array = np.float64(0).__reduce__()[0], np.zeros(0).__reduce__()[0]
        makers |= {(module, "scalar"): scalar, (module, "_reconstruct"): array}
    plain = {kind.__name__: kind for kind in (bool, complex, dict, float, frozenset, int, list, set, slice, str, tuple)}
    for name, kind in {**plain, "long": int, "unicode": str}.items():  # the last two are what Python 2 called them
        makers |= {("builtins", name): kind, ("__builtin__", name): kind}
    for name in ("OrderedDict", "defaultdict", "Counter", "deque"):
        makers["collections", name] = getattr(collections, name)
    return makers


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """Return the bytes that a pickle of protocol 2 writes as letters."""
    if encoding not in ("latin1", "latin-1", "utf-8", "ascii"):
        raise _Refused(f"the encoding {encoding}")
    return text.encode(encoding)
