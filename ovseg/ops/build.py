"""Compile the operators of ``csrc/``: with a C++ compiler for the CPU, with nvcc for CUDA as well.

Ahead of time and by hand (`ovseg build-ops`): no import ever starts a compiler.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import torch

from ovseg.errors import EnvironmentProblem
from ovseg.ops.library import SOURCES, library_name
from ovseg.system.cache_dir import cache_dir
from ovseg.system.files import atomic_write, check_writable

ARCHITECTURES = ("75", "80", "86", "89", "90", "100", "120")
"""Compute capabilities that CUDA kernels are made for."""

WARNINGS = ("-Wall", "-Wextra")

_VECTORS = {
    "AVX512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma", "-mf16c"],
    "AVX2": ["-mavx2", "-mfma", "-mf16c"],
}


def find_compiler() -> str | None:
    """Return the C++ compiler: ``$CXX``, else g++, c++ or clang++ on the path; None where there is none."""
    names = (os.environ.get("CXX"), "g++", "c++", "clang++")  # PyTorch's threads are those of g++'s OpenMP
    return next((path for name in names if name and (path := shutil.which(name))), None)


def find_nvcc() -> str | None:
    """Return CUDA's compiler: ``$CUDA_HOME/bin/nvcc``, else nvcc on the path; None where there is none."""
    home = os.environ.get("CUDA_HOME")
    return shutil.which("nvcc", path=f"{home}/bin") if home else shutil.which("nvcc")


def build(folder: Path | None = None, cuda: bool | None = None, report: Callable[[str], None] = lambda _: None) -> Path:
    """Compile and link all operators.

    Args:
        folder: Where the library goes; by default where `ovseg.ops.library.find_library` looks.
        cuda: Whether CUDA kernels are in it; by default where torch is a CUDA build and there is nvcc.
        report: Is told in a few words what has been done.

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
    if with_cuda and (nvcc is None or torch.version.cuda is None):
        lacking = (
            "torch is built without CUDA" if nvcc else "there is no nvcc; install the CUDA toolkit or set CUDA_HOME"
        )
        raise EnvironmentProblem(f"operators for CUDA cannot be built: {lacking}; `--no-cuda` builds those for the CPU")
    tools = Tools(compiler, nvcc if with_cuda else None)
    target = check_writable(folder or cache_dir() / "ops") / library_name()
    with tempfile.TemporaryDirectory(prefix="ovseg-build-") as work, ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = {
            pool.submit(run, tools.compile(path, Path(work) / f"{path.name}.o")): path for path in sources(with_cuda)
        }
        for done, job in enumerate(as_completed(jobs), 1):
            job.result()
            report(f"{done}/{len(jobs)} {jobs[job].name}")
        with atomic_write(target) as temporary:
            run(tools.link(sorted(Path(work).glob("*.o")), temporary))
    return target


def sources(cuda: bool) -> list[Path]:
    """Return the files that are compiled: ``NAME_cpu.cpp``, and for CUDA ``NAME.cu`` and ``NAME_cuda.cpp``."""
    patterns = ["*_cpu.cpp", *(["*.cu", "*_cuda.cpp"] if cuda else [])]
    return sorted(path for pattern in patterns for path in SOURCES.glob(pattern))


@dataclass(frozen=True)
class Tools:
    """The compilers and the commands for them.

    Attributes:
        compiler: Of C++.
        nvcc: Of CUDA; None for a library without.
    """

    compiler: str
    nvcc: str | None

    def compile(self, source: Path, target: Path) -> list[str | Path]:
        """Return the command that compiles a source to an object file."""
        if self.nvcc is None or (source.suffix == ".cpp" and not source.stem.endswith("_cuda")):
            return [self.compiler, *cpu_options(), *torch_options(), "-c", source, "-o", target]
        options = (
            kernel_options(architectures(self.nvcc)) if source.suffix == ".cu" else ["-std=c++20", *torch_options()]
        )
        return [self.nvcc, "-ccbin", self.compiler, "-O3", "-Xcompiler=-fPIC", *options, "-c", source, "-o", target]

    def link(self, objects: Iterable[Path], target: Path) -> list[str | Path]:
        """Return the command that makes a library of object files; nvcc brings CUDA's runtime with it, linked in."""
        folder = Path(torch.__file__).parent / "lib"
        libraries = [
            f"-l{name}" for name in ["c10", "torch", "torch_cpu", *(["c10_cuda", "torch_cuda"] if self.nvcc else [])]
        ]
        rest: list[str | Path] = ["-shared", "-o", target, *objects, f"-L{folder}", *libraries]
        if self.nvcc:
            return [self.nvcc, "-ccbin", self.compiler, *rest, f"-Xlinker=-rpath,{folder}", *map(_for_host, _threads())]
        return [self.compiler, *rest, f"-Wl,-rpath,{folder}", *_threads()]


def architectures(nvcc: str) -> list[str]:
    """Return those of `ARCHITECTURES` that this nvcc knows."""
    known = run([nvcc, "--list-gpu-arch"]).split()
    return [name for name in ARCHITECTURES if f"compute_{name}" in known]


def kernel_options(architectures: Iterable[str]) -> list[str]:
    """Return nvcc's options for kernels, with code for each architecture."""
    return ["-std=c++17", *(f"-gencode=arch=compute_{name},code=sm_{name}" for name in architectures)]


def cpu_options() -> list[str]:
    """Return the C++ compiler's options: warnings of mistakes, and the vectors that this CPU has."""
    vectors = _VECTORS.get(torch.backends.cpu.get_cpu_capability(), [])
    threads = [] if sys.platform == "darwin" else ["-fopenmp"]  # without it `at::parallel_for` is a plain loop
    return ["-O3", "-std=c++20", "-fPIC", *WARNINGS, "-fno-math-errno", "-fno-trapping-math", *vectors, *threads]


def torch_options() -> list[str]:
    """Return the options with which a source sees PyTorch's headers."""
    root = Path(torch.__file__).parent / "include"
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
    return ["-isystem", str(root), "-isystem", str(root / "torch" / "csrc" / "api" / "include"), abi]


def run(command: list[str | Path]) -> str:
    """Run a compiler; return what it prints.

    Raises:
        EnvironmentProblem: It failed; the message has its last lines.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        text = "\n".join((done.stderr or done.stdout).strip().splitlines()[-20:])
        raise EnvironmentProblem(f"the compiler failed ({' '.join(map(str, command))}):\n{text}")
    return done.stdout


def _threads() -> list[str]:
    """Return the linker's options for OpenMP: the library that torch has loaded, not another with its own threads."""
    if sys.platform == "darwin":
        return []
    root = Path(torch.__file__).parent
    own = [str(path) for folder in (root / "lib", root.parent / "torch.libs") for path in folder.glob("libgomp*.so*")]
    return [*own, "-Wl,--as-needed", "-fopenmp"]


def _for_host(option: str) -> str:
    """Return an option of the C++ compiler that links as nvcc takes it."""
    return f"-Xcompiler={option}" if option == "-fopenmp" else f"-Xlinker={option.removeprefix('-Wl,')}"
