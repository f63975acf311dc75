"""The operators of this toolkit in `torch.library`, and the compiled kernels where they have been built.

Every operator is defined here in Python with a plain PyTorch form, which runs on any device. A library that
`ovseg.ops.build` has made adds kernels for the CPU and CUDA in front of it; nothing else changes for a caller.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ovseg.errors import EnvironmentProblem
from ovseg.system.cache_dir import cache_path

SOURCES = Path(__file__).parent / "csrc"
PREBUILT = Path(__file__).parent / "prebuilt"
"""Where an installation with ``OVSEG_BUILD_OPS=1`` puts its library."""

SWITCH = "OVSEG_OPS"
"""Environment variable: ``torch`` leaves compiled kernels alone."""

_DEFINITIONS = torch.library.Library("ovseg", "DEF")
_NAMES: set[str] = set()


def define(schema: str, plain: Callable[..., Any], shapes: Callable[..., Any]) -> None:
    """Register an operator ``ovseg::NAME``.

    Gradients are added by ``torch.library.register_autograd("ovseg::NAME", backward, setup_context=...)``.

    Args:
        schema: ``name(Tensor a, int b) -> Tensor``.
        plain: The form in plain PyTorch operations, for every device without a kernel.
        shapes: Returns empty tensors of the right shapes and dtypes, for tracing.
    """
    name = schema.partition("(")[0]
    _NAMES.add(name)
    _DEFINITIONS.define(schema)
    _DEFINITIONS.impl(name, plain, "CompositeExplicitAutograd")
    torch.library.register_fake(f"ovseg::{name}", shapes, lib=_DEFINITIONS)


@cache
def build_key() -> str:
    """Return what a compiled library must have been made for: release of torch, vectors of the CPU, our sources."""
    digest = hashlib.sha256()
    for path in sorted(SOURCES.iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    capability = torch.backends.cpu.get_cpu_capability().lower().replace(" ", "")
    return f"torch{torch.__version__}-{capability}-{digest.hexdigest()[:12]}"


def library_name() -> str:
    """Return the file name of a library that fits this installation."""
    return f"ovseg_ops-{build_key()}.so"


def find_library() -> Path | None:
    """Return the compiled library that fits, or None where there is none."""
    folders = [PREBUILT]
    with contextlib.suppress(EnvironmentProblem):  # no home, no cache
        folders.append(cache_path() / "ops")
    return next((path for folder in folders if (path := folder / library_name()).is_file()), None)


def _kernels() -> Path | None:
    """Load the compiled kernels; return their library, or None where there is none or `SWITCH` says ``torch``."""
    return _load()


# torch.compile calls it while it traces, instead of tracing into it. PyTorch 2.4 puts what it returned into the module
# that calls it, under the name of its definition, so the name by which it is called must be another.
load_kernels = torch.compiler.assume_constant_result(_kernels)


@cache
def _load() -> Path | None:
    path = None if os.environ.get(SWITCH) == "torch" else find_library()
    if path is not None:
        try:
            torch.ops.load_library(path)
        except OSError as error:
            raise EnvironmentProblem(
                f"the compiled operators {path} cannot be loaded ({error}); build them again with `ovseg build-ops`, "
                f"or do without: `export {SWITCH}=torch`"
            ) from error
    return path


def kernel_devices(name: str) -> list[str]:
    """Return the devices for which an operator has a compiled kernel: some of ``cpu`` and ``cuda``."""
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    return [key.lower() for key in ("CPU", "CUDA") if has(f"ovseg::{name}", key)]


def operators() -> list[str]:
    """Return the names of all operators that are defined."""
    return sorted(_NAMES)
