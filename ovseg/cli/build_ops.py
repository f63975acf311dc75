"""Compile the operators ahead of time, for the CPU and where there is nvcc for CUDA; nothing needs it, it is faster."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLES = """\
examples:
  ovseg build-ops
  ovseg build-ops --no-cuda
  CXX=clang++ ovseg build-ops
  ovseg build-ops --cuda --output operators

It takes a C++ compiler (Debian: apt-get install g++), and for CUDA the nvcc of a CUDA toolkit (CUDA_HOME or the path).
Build again after a change of PyTorch. `ovseg doctor` says what is built; OVSEG_OPS=torch leaves it unused.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ovseg build-ops``."""
    parser.add_argument(
        "--cuda", action=argparse.BooleanOptionalAction, help="kernels for CUDA (where torch and nvcc have it)"
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="folder for the library (the cache, where it is loaded from)"
    )


def run(args: argparse.Namespace) -> int:
    """Compile, and say where the library is."""
    from ovseg.ops.build import build
    from ovseg.system import terminal

    console = terminal.console()
    with console.status("compiling, a minute or two ...") as status:
        path = build(args.output, args.cuda, lambda text: status.update(f"compiling: {text}"))
    console.print(f"built {path}", soft_wrap=True, markup=False, highlight=False)
    return 0
