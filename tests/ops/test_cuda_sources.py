"""The CUDA sources compile for every architecture, and their kernels are right where they run as threads of a CPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from ovseg.ops import build
from ovseg.ops.library import SOURCES
from tests.ops.test_sanitizers import DRIVERS, run_driver

NVCC = build.find_nvcc()
KERNELS = sorted(path.stem for path in DRIVERS.glob("*_kernels.cpp"))


@pytest.mark.slow
@pytest.mark.skipif(NVCC is None, reason="no nvcc")
@pytest.mark.parametrize("source", sorted(path.name for path in SOURCES.glob("*.cu")))
def test_compiles_for_every_architecture(tmp_path: Path, source: str) -> None:
    assert NVCC is not None
    if missing := set(build.ARCHITECTURES) - set(build.architectures(NVCC)):
        pytest.skip(f"this nvcc does not know {', '.join(sorted(missing))}")
    tools = build.Tools(build.find_compiler() or "c++", NVCC)
    build.run(tools.compile(SOURCES / source, tmp_path / "kernels.o"))
    assert (tmp_path / "kernels.o").stat().st_size > 0


@pytest.mark.slow
@pytest.mark.parametrize("driver", KERNELS)
def test_kernels_are_right_and_have_no_race(tmp_path: Path, driver: str) -> None:
    run_driver(tmp_path, driver, "thread", [f"-I{DRIVERS / 'emulation'}"])
