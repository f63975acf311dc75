"""The plain C++ cores of the operators, compiled into small programs that sanitizers watch.

A program ``drivers/NAME.cpp`` includes the core ``csrc/NAME.h``, runs it on odd sizes and layouts, compares with the
definition, and returns 0 where all is right.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from ovseg.ops import build
from ovseg.ops.library import SOURCES

DRIVERS = Path(__file__).parent / "drivers"
CORES = sorted(path.stem for path in DRIVERS.glob("*.cpp") if not path.stem.endswith("_kernels"))


def run_driver(folder: Path, name: str, sanitizers: str, options: Sequence[str] = ()) -> None:
    """Compile a driver with sanitizers and run it; skip where the compiler has none."""
    compiler = build.find_compiler()
    if compiler is None:
        pytest.skip("no C++ compiler")
    checks = [f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all", "-g", "-O1", "-std=c++20", "-pthread"]
    probe = folder / "probe.cpp"
    probe.write_text("int main() {}\n")
    if subprocess.run([compiler, *checks, probe, "-o", folder / "probe"], capture_output=True, check=False).returncode:
        pytest.skip(f"the compiler has no sanitizers {sanitizers}")
    program = folder / name
    own = [*options, f"-I{SOURCES}", f"-I{DRIVERS}", "-Wno-unknown-pragmas"]
    build.run([compiler, *checks, *own, DRIVERS / f"{name}.cpp", "-o", program])
    done = subprocess.run([program], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]


@pytest.mark.parametrize("name", CORES)
def test_cores_stay_inside_of_memory_and_defined_behaviour(tmp_path: Path, name: str) -> None:
    run_driver(tmp_path, name, "address,undefined")
