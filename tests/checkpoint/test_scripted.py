"""TorchScript archives are read as data: the tensors of `torch.jit.load`, and none of their code runs."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ovseg.checkpoint.files import read_raw, read_state_dict
from ovseg.checkpoint.strict import load_strict
from ovseg.errors import WeightsError

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::torch.jit.TracerWarning")


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 3, bias=False)
        self.register_buffer("scale", torch.rand(3))
        self.register_buffer("mask", torch.full((3,), float("-inf")), persistent=False)
        self.plain, self.sizes = torch.rand(3), [1, 2]

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) * self.scale + self.plain + self.sizes[0]


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks, self.norm = nn.Sequential(Inner(), nn.Linear(3, 2), Inner()), nn.BatchNorm1d(3)
        self.scale = nn.Parameter(torch.tensor(4.0, dtype=torch.float16))
        self.register_buffer("context_length", torch.tensor(77))

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.blocks(x)) * self.scale


def archive(module: nn.Module, path: Path, traced: bool) -> Path:
    made: Any = torch.jit.trace(module, torch.rand(4, 2)) if traced else torch.jit.script(module)
    torch.jit.save(made, str(path))
    return path


@pytest.mark.parametrize("traced", [True, False])
def test_tensors_are_those_that_pytorch_reads(tmp_path: Path, traced: bool) -> None:
    path = archive(Outer().half() if not traced else Outer(), tmp_path / "a.pt", traced)
    expected = dict(torch.jit.load(str(path)).state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = read_raw(path)
    assert found.scripted and found.content.keys() == expected.keys() and len(expected) > 10
    for key, value in found.content.items():
        assert torch.equal(value, expected[key]) and value.dtype == expected[key].dtype, key


def test_what_is_read_fits_the_module(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GroupNorm(2, 4))
    torch.jit.save(torch.jit.script(module), str(tmp_path / "a.pt"))
    again = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GroupNorm(2, 4))
    load_strict(again, read_state_dict(tmp_path / "a.pt"), "a.pt", "a network")
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in module.state_dict().items())


HOSTILE = """
from typing import Tuple
import torch

class Hostile(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.ones(2))

    def forward(self, x: torch.Tensor):
        return x

    @torch.jit.export
    def __getstate__(self):
        return (self.w, self.training)

    @torch.jit.export
    def __setstate__(self, state: Tuple[torch.Tensor, bool]):
        self.w, self.training = state[0], state[1]
        print("code of the file was run")
"""


def test_code_of_an_archive_does_not_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """`torch.jit.load` runs what rebuilds a state."""
    (tmp_path / "hostile.py").write_text(HOSTILE)  # TorchScript reads the source of a class from its file
    spec = importlib.util.spec_from_file_location("hostile", tmp_path / "hostile.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.jit.save(torch.jit.script(module.Hostile()), str(tmp_path / "a.pt"))
    torch.jit.load(str(tmp_path / "a.pt"))
    assert "code of the file was run" in capfd.readouterr().out
    with pytest.raises(WeightsError, match="the state of 'its model' is of a form that only its code can read"):
        read_state_dict(tmp_path / "a.pt")
    assert capfd.readouterr().out == ""
