"""Compile the operators of ``csrc/``: with a C++ compiler for the CPU, with nvcc for CUDA as well.

Ahead of time and by hand (`ovseg build-ops`): no import ever starts a compiler.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from ovseg.cache_dir import cache_dir
from ovseg.errors import EnvironmentProblem
from ovseg.files import atomic_write
from ovseg.ops.library import SOURCES, library_name

ARCHITECTURES = ("75", "80", "86", "89", "90", "100", "120")
"""Compute capabilities that CUDA kernels are made for."""

_VECTORS = {
    "AVX512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma", "-mf16c"],
    "AVX2": ["-mavx2", "-mfma", "-mf16c"],
}


def find_compiler() -> str | None:
    """Return the C++ compiler: ``$CXX``, else c++, g++ or clang++ on the path; None where there is none."""
    return next(filter(None, map(shutil.which, filter(None, (os.environ.get("CXX"), "c++", "g++", "clang++")))), None)


def find_nvcc() -> str | None:
    """Return CUDA's compiler: ``$CUDA_HOME/bin/nvcc``, else nvcc on the path; None where there is none."""
    home = os.environ.get("CUDA_HOME")
    return shutil.which("nvcc", path=f"{home}/bin") if home else shutil.which("nvcc")


def build(folder: Path | None = None, cuda: bool | None = None) -> Path:
    """Compile and link all operators.

    Args:
        folder: Where the library goes; by default where `ovseg.ops.library.find_library` looks.
        cuda: Whether CUDA kernels are in it; by default where torch is a CUDA build and there is nvcc.

    Returns:
        The library.

    Raises:
        EnvironmentProblem: There is no compiler, or it failed.
    """
    compiler, nvcc = find_compiler(), find_nvcc()
    if sys.platform == "win32" or compiler is None:
        raise EnvironmentProblem(
            "there is no C++ compiler to build the operators with; install g++ or clang++ on Linux or macOS "
            "(Debian: `apt-get install g++`), or leave it: everything runs without, in plain PyTorch"
        )
    with_cuda = cuda if cuda is not None else torch.version.cuda is not None and nvcc is not None
    if with_cuda and nvcc is None:
        raise EnvironmentProblem("there is no nvcc for the CUDA operators; install the CUDA toolkit or set CUDA_HOME")
    target = (folder or cache_dir() / "ops") / library_name()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ovseg-build-") as work:
        commands = {Path(work) / f"{path.name}.o": path for path in sources(with_cuda)}
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            jobs = [pool.submit(_compile, path, target, compiler, nvcc) for target, path in commands.items()]
            for job in jobs:
                job.result()
        with atomic_write(target) as temporary:
            run([compiler, "-shared", "-o", temporary, *commands, *_link_options(with_cuda)])
    return target


def sources(cuda: bool) -> list[Path]:
    """Return the files that are compiled: ``NAME_cpu.cpp``, and for CUDA ``NAME.cu`` and ``NAME_cuda.cpp``."""
    patterns = ["*_cpu.cpp", *(["*.cu", "*_cuda.cpp"] if cuda else [])]
    return sorted(path for pattern in patterns for path in SOURCES.glob(pattern))


def nvcc_options(architectures: Iterable[str] = ARCHITECTURES) -> list[str]:
    """Return nvcc's options for kernels, with code for each architecture."""
    codes = [f"-gencode=arch=compute_{name},code=sm_{name}" for name in architectures]
    return ["-O3", "-std=c++17", "--expt-relaxed-constexpr", "-Xcompiler=-fPIC", *codes]


def cpu_options() -> list[str]:
    """Return the C++ compiler's options: warnings of mistakes, and the vectors that this CPU has."""
    vectors = _VECTORS.get(torch.backends.cpu.get_cpu_capability(), [])
    return ["-O3", "-std=c++20", "-fPIC", "-Wall", "-Wextra", "-fno-math-errno", "-fno-trapping-math", *vectors]


def run(command: list[str | Path]) -> None:
    """Run a compiler.

    Raises:
        EnvironmentProblem: It failed; the message has its last lines.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        text = "\n".join((done.stderr or done.stdout).strip().splitlines()[-20:])
        raise EnvironmentProblem(f"the compiler failed ({' '.join(map(str, command))}):\n{text}")


def _compile(source: Path, target: Path, compiler: str, nvcc: str | None) -> None:
    if source.suffix == ".cu":
        run([nvcc or "nvcc", *nvcc_options(), "-c", source, "-o", target])
    else:
        run([compiler, *cpu_options(), *_torch_options(), "-c", source, "-o", target])


def _torch_options() -> list[str]:
    from torch.utils.cpp_extension import include_paths

    kind = "cuda" if torch.version.cuda else "cpu"
    folders = [option for path in include_paths(kind) for option in ("-isystem", path)]
    return [*folders, f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"]


def _link_options(cuda: bool) -> list[str]:
    folder = Path(torch.__file__).parent / "lib"
    names = ["c10", "torch", "torch_cpu", *(["c10_cuda", "torch_cuda"] if cuda else [])]
    return [f"-L{folder}", f"-Wl,-rpath,{folder}", *(f"-l{name}" for name in names)]
