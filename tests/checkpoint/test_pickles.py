"""Checkpoints that hold more than tensors are read, and none of them runs code."""

from __future__ import annotations

import argparse
import collections
import datetime
import os
import pathlib
import pickle
import sys
import types
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode

from ovseg.checkpoint.files import read_part, read_state_dict
from ovseg.checkpoint.pickles import StandIn, read_pickle
from ovseg.errors import WeightsError

WEIGHTS = {"a": torch.arange(3.0), "b": torch.nn.Parameter(torch.ones(2, 2, dtype=torch.float16))}
NUMBERS = {
    "best_acc": np.float64(61.25),
    "epoch": np.int64(7),
    "flag": np.bool_(True),
    "half": np.float16(0.5),
    "dtype": np.dtype("float32"),
    "curve": np.linspace(0, 1, 5),
    "names": np.array(["cat", "dog"]),
}


def records() -> dict[str, Any]:
    return {
        "args": argparse.Namespace(lr=1e-3, output=pathlib.Path("out"), began=datetime.datetime(2024, 1, 1)),
        "space": types.SimpleNamespace(a=1),
        "cfg": CfgNode({"MODEL": {"NAME": "x", "SIZES": [1, 2]}}),
        "settings": collections.defaultdict(list, {"a": [1]}),
        "counts": collections.Counter("aab"),
    }


def save(content: Any, path: pathlib.Path, zipped: bool) -> pathlib.Path:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def with_numpy_of(version: int, path: pathlib.Path) -> pathlib.Path:
    """Rename the module that makes NumPy's numbers, as another version of it would have written it."""
    old, new = (b"numpy._core", b"numpy.core") if version == 1 else (b"numpy.core", b"numpy._core")
    path.write_bytes(path.read_bytes().replace(old, new))
    return path


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("version", [1, 2])
def test_numbers_of_numpy(tmp_path, version, zipped):
    """The older format of `torch.save` has no checksum: there the names of both versions of NumPy can be written."""
    path = save({"state_dict": WEIGHTS, "model": WEIGHTS, **NUMBERS}, tmp_path / "a.pt", zipped)
    if not zipped:
        with_numpy_of(version, path)
    found = read_pickle(path)
    for key, value in NUMBERS.items():
        assert np.array_equal(found[key], value) and type(found[key]) is type(value)
    for state in (read_state_dict(path), read_part(path, "model"), read_part(path, "state_dict")):
        assert state.keys() == WEIGHTS.keys()
        assert all(torch.equal(state[key], value) for key, value in WEIGHTS.items())


@pytest.mark.parametrize("zipped", [True, False])
def test_settings_and_records_become_stand_ins(tmp_path, zipped):
    path = save({"model": WEIGHTS, "state_dict": WEIGHTS, **NUMBERS, **records()}, tmp_path / "a.pt", zipped)
    found = read_pickle(path)
    assert all(isinstance(found[key], StandIn) for key in ("args", "space", "cfg"))
    assert found["settings"] == {"a": [1]} and found["counts"]["a"] == 2
    assert read_part(path, "model").keys() == WEIGHTS.keys() == read_state_dict(path).keys()


def test_modules_of_records_are_not_imported(tmp_path, monkeypatch):
    """A framework that is not installed here has left its records in a file, and in the keys of a dict, too."""
    module = types.ModuleType("mmengine.logging.history_buffer")
    kind = type("HistoryBuffer", (), {"__module__": module.__name__})
    module.HistoryBuffer = kind
    for name in ("mmengine", "mmengine.logging", module.__name__):
        monkeypatch.setitem(sys.modules, name, module)
    buffer = kind()
    buffer.values, buffer.best = np.zeros(3), np.float64(1)
    path = save({"state_dict": WEIGHTS, "loss": buffer, "of": {kind: 1}}, tmp_path / "a.pth", True)
    for name in ("mmengine", "mmengine.logging", module.__name__):
        monkeypatch.delitem(sys.modules, name)
    assert read_state_dict(path).keys() == WEIGHTS.keys()
    assert "mmengine" not in sys.modules


def test_arrays_in_a_state_dict_are_tensors(tmp_path):
    path = save({"state_dict": {"w": np.ones((2, 3), np.float32), "scale": np.float32(4)}}, tmp_path / "a.pt", True)
    state = read_state_dict(path)
    assert torch.equal(state["w"], torch.ones(2, 3)) and state["scale"] == 4 and state["scale"].ndim == 0
    path = save({"state_dict": {"w": np.array(["cat"])}}, tmp_path / "b.pt", True)
    with pytest.raises(WeightsError, match="holds 'w', which is no tensor"):
        read_state_dict(path)


class Runs:
    """Calls something where it is unpickled."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call, self.arguments


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("call", [os.system, eval, exec, getattr, __import__, pickle.loads, torch.load, os.remove])
def test_a_pickle_that_would_run_code_is_refused(tmp_path, call, zipped):
    mark = tmp_path / "mark"
    content = {"state_dict": WEIGHTS, **NUMBERS, "bad": Runs(call, f"touch {mark}")}
    path = save(content, tmp_path / "a.pt", zipped)
    for read in (read_pickle, read_state_dict, lambda path: read_part(path, "model")):
        with pytest.raises(WeightsError, match=rf"{call.__name__}, which is no data and could run code") as caught:
            read(path)
        assert "\n" not in str(caught.value) and "save(w.get('state_dict', w)" in str(caught.value)
    assert not mark.exists()


def test_tensors_of_all_kinds(tmp_path):
    """Of types that got a storage of their own later, and with attributes."""
    marked = torch.ones(2)
    marked.expert = np.int64(3)
    state = {"a": torch.ones(2).to(torch.uint16), "b": marked, "c": torch.nn.Parameter(torch.zeros(1))}
    state["c"].expert = 1
    content = {"state_dict": state, "epoch": np.int64(1), "raw": bytearray(b"x"), "r": range(3)}
    path = save(content, tmp_path / "a", True)
    found = read_state_dict(path)
    assert all(torch.equal(found[key], value) for key, value in state.items()) and found["a"].dtype == torch.uint16


ADDRESS = b"c_codecs\nencode\nX\x08\x00\x00\x00AAAAAAAAX\x06\x00\x00\x00latin1\x86R"  # eight bytes
FLAGLESS = (
    b"cnumpy\ndtype\nX\x02\x00\x00\x00O8\x89\x88\x87R(K\x03X\x01\x00\x00\x00|NNN"
    + 2 * b"J\xff\xff\xff\xff"
    + b"K\x00tb"
)
ARRAY = b"_reconstruct\ncnumpy\nndarray\nK\x00\x85X\x01\x00\x00\x00b\x87R"


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
@pytest.mark.parametrize(
    "hostile",
    [b"scalar\n" + FLAGLESS + ADDRESS + b"\x86R", ARRAY + b"(K\x01K\x01\x85" + FLAGLESS + b"\x89" + ADDRESS + b"tb"],
)
def test_bytes_are_never_taken_for_addresses_of_objects(tmp_path, hostile, module):
    """A type of objects whose flags deny it makes NumPy follow any address: the process dies, or worse."""
    path = rewritten(tmp_path / "a.pt", b"\x80\x02c" + module + b"\n" + hostile + b".")
    with pytest.raises(WeightsError, match="it names a type of NumPy's with parts or flags of its own"):
        read_pickle(path)


def test_arrays_are_not_made_over_bytes(tmp_path):
    content = b"\x80\x02cnumpy\nndarray\nK\x01\x85X\x01\x00\x00\x00O" + ADDRESS + b"\x87R."
    assert isinstance(read_pickle(rewritten(tmp_path / "a.pt", content)), StandIn)


def rewritten(path: pathlib.Path, content: bytes) -> pathlib.Path:
    """Put a pickle of one's own into an archive of `torch.save`."""
    save(WEIGHTS, path.with_suffix(".base"), True)
    with zipfile.ZipFile(path.with_suffix(".base")) as old, zipfile.ZipFile(path, "w") as new:
        for entry in old.infolist():
            new.writestr(entry, content if entry.filename.endswith("data.pkl") else old.read(entry))
    return path


def test_nothing_but_records_is_given_a_state(tmp_path):
    """A pickle may set attributes of whatever it can name: here of the function that rebuilds tensors."""
    hostile = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}U\x08__name__U\x01xsb."
    path = tmp_path / "a.pt"
    path.write_bytes(hostile)
    with pytest.raises(WeightsError, match="it names a state of function, which is no data"):
        read_state_dict(path)
    assert torch._utils._rebuild_tensor_v2.__name__ == "_rebuild_tensor_v2"
