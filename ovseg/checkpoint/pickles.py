"""Checkpoints as PyTorch pickles them, read without running code.

`torch.load` refuses every file that holds more than tensors and plain values, and many published ones do: numbers of
NumPy (an epoch's best score), the arguments of a training, records of a framework. NumPy's numbers and arrays are read
as what they are. Objects of classes that only carry settings or records become empty stand-ins, whatever they hold:
their modules are never imported, and nothing of them is called. Every other name is refused.
"""

from __future__ import annotations

import collections
import io
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

_OLD_TORCH = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
"""How files of `torch.save` start that are no zip archives."""

_TENSORS = (
    "_rebuild_parameter",
    "_rebuild_parameter_with_state",
    "_rebuild_tensor",
    "_rebuild_tensor_v2",
    "_rebuild_tensor_v3",
)
"""What makes tensors, in `torch._utils`."""


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


class Refused(pickle.UnpicklingError):
    """A pickle names what is no data."""

    def of(self, path: Path, mend: str) -> WeightsError:
        """Return the error of the file, with its mend."""
        return WeightsError(
            f"{path} cannot be read: it names {self}, which is no data and could run code; expected tensors and plain "
            f"values: {mend}"
        )


def read_pickle(path: Path) -> Any:
    """Read a file of `torch.save`: tensors, plain values, NumPy's numbers and arrays, and stand-ins.

    Args:
        path: The file.

    Raises:
        WeightsError: It names what is neither data nor a record, and could run code.
        Exception: Whatever `torch.load` raises on foreign or broken bytes.
    """
    try:
        with path.open("rb") as file:  # open, for of a path PyTorch would go by its suffix
            return Unpickler(file).load() if _is_bare(path) else _read_torch(file)
    except Refused as error:
        mend = (
            'get another file or, if you trust its author, keep its tensors alone: python -c "import torch; '
            f"w = torch.load('{path}', 'cpu', weights_only=False); torch.save(w.get('state_dict', w), 'weights.pt')\""
        )
        raise error.of(path, mend) from error


def _read_torch(file: Any) -> Any:
    """Read what `torch.save` has written into an open file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of protocols it may not know: then the other reader does
            return torch.load(file, map_location=CPU, weights_only=True)
    except pickle.UnpicklingError:  # it holds something else; what, the other reader tells
        file.seek(0)
        return _torch_load(file)


def _torch_load(file: Any) -> Any:
    reader = SimpleNamespace(__name__=__name__, Unpickler=Unpickler, load=_load)
    return torch.load(file, map_location=CPU, weights_only=False, pickle_module=reader)


def _load(file: Any, **options: Any) -> Any:
    return Unpickler(file, **options).load()


def _is_bare(path: Path) -> bool:
    """Tell whether a file is a pickle of Python alone, as Detectron2's, and not one of `torch.save` of any age."""
    with path.open("rb") as file:
        start = file.read(len(_OLD_TORCH))
    return start[:1] == b"\x80" and start != _OLD_TORCH


# That in Python: the one in C has no way to say which objects may be given a state.
class Unpickler(pickle._Unpickler):  # type: ignore[misc,name-defined,unused-ignore]
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
        raise Refused(f"{module}.{name}")

    def load_build(self) -> None:
        """Give an object its state, if it is one that only keeps it."""
        owner, state = self.stack[-2:]  # type: ignore[attr-defined,unused-ignore]
        if not isinstance(owner, StandIn | np.ndarray | np.dtype | collections.OrderedDict):
            raise Refused(f"a state of {type(owner).__name__}")
        if isinstance(owner, np.dtype) and not _is_plain(owner, state):
            raise Refused("a type of NumPy's with parts or flags of its own")
        super().load_build()  # type: ignore[misc,unused-ignore]

    dispatch: ClassVar[dict[int, Any]] = {**pickle._Unpickler.dispatch, pickle.BUILD[0]: load_build}


def _dtype(name: str, *_align_and_copy: Any) -> np.dtype[Any]:
    """Return a type of NumPy's by its name (``f8``), a copy, for a pickle goes on to give it a state."""
    return np.dtype(str(name), align=False, copy=True)


def _is_plain(dtype: np.dtype[Any], state: Any) -> bool:
    """Tell whether a state changes no more of a type than the order of its bytes.

    The flags of a type say whether its bytes are addresses of objects: false ones would have NumPy follow whatever
    addresses the file names.
    """
    _, _, base, names, fields, size, alignment, flags = state[:8]
    sizes = size in (-1, dtype.itemsize) and alignment in (-1, dtype.alignment)
    return base is names is fields is dtype.names is None and sizes and flags == dtype.flags


def _empty_array(*_kind_shape_and_type: Any) -> np.ndarray[Any, Any]:
    """Return what a pickle goes on to give its shape, type and values, which NumPy compares with each other."""
    return np.empty(0, np.uint8)


def _array_of_bytes(
    values: Any, dtype: np.dtype[Any], shape: tuple[int, ...], order: Any = "C"
) -> np.ndarray[Any, Any]:
    """Return an array of numbers over a copy of its bytes, as pickles of protocol 5 hold it."""
    if not isinstance(values, bytes | bytearray) or not isinstance(dtype, np.dtype) or dtype.kind not in "biufc":
        raise Refused("an array of something else than numbers")
    return np.frombuffer(bytes(values), dtype).reshape(shape, order="F" if order == "F" else "C").copy()


def _storage_of_bytes(content: Any) -> Any:
    """Return the values of a tensor that was pickled without `torch.save`: a file of that for each, read as all are."""
    if not isinstance(content, bytes | bytearray):
        raise Refused("a storage of something else than bytes")
    return _torch_load(io.BytesIO(bytes(content)))


def _known() -> dict[tuple[str, str], Any]:
    """Return what makes tensors, plain values, and the numbers and arrays of NumPy, by module and name."""
    makers: dict[tuple[str, str], Any] = {
        **{("torch._utils", name): getattr(torch._utils, name) for name in _TENSORS},
        ("torch._tensor", "_rebuild_from_type_v2"): torch._tensor._rebuild_from_type_v2,
        ("torch", "Tensor"): torch.Tensor,
        ("torch.nn.parameter", "Parameter"): torch.nn.Parameter,
        ("torch.storage", "UntypedStorage"): torch.UntypedStorage,
        ("torch.storage", "_load_from_bytes"): _storage_of_bytes,
        ("torch", "Size"): torch.Size,
        ("torch", "device"): torch.device,
        ("_codecs", "encode"): _encode,
        ("numpy", "dtype"): _dtype,
        ("numpy", "ndarray"): StandIn,  # called, it would take any bytes for addresses of objects
    }
    for module in _NUMPY:
        makers |= {(module, "scalar"): np.float64(0).__reduce__()[0], (module, "_reconstruct"): _empty_array}
        makers[module.replace("multiarray", "numeric"), "_frombuffer"] = _array_of_bytes
    kinds = (bool, bytearray, complex, dict, float, frozenset, int, list, range, set, slice, str, tuple)
    plain = {kind.__name__: kind for kind in kinds}
    for name, kind in {**plain, "long": int, "unicode": str, "xrange": range}.items():  # the last: names of Python 2
        makers |= {("builtins", name): kind, ("__builtin__", name): kind}
    for name in ("OrderedDict", "defaultdict", "Counter", "deque"):
        makers["collections", name] = getattr(collections, name)
    return makers


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """Return the bytes that a pickle of protocol 2 writes as letters."""
    if encoding not in ("latin1", "latin-1", "utf-8", "ascii"):
        raise Refused(f"the encoding {encoding}")
    return text.encode(encoding)
