"""The compiled operators, built once for all tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ovseg.ops import build
from ovseg.ops.library import library_name
from ovseg.system.cache_dir import cache_dir


@pytest.fixture(scope="session")
def kernels(pytestconfig: pytest.Config) -> Path:
    """Compile the operators for the CPU, unless that was done before, and load them; skip without a compiler.

    From then on every call in this process takes the kernels: a test compares them with the plain form by its name. So
    do the processes that later tests start, for what they find must be equal to the bit.
    """
    if build.find_compiler() is None:
        pytest.skip("no C++ compiler")
    assert pytestconfig.cache is not None
    folder = Path(pytestconfig.cache.mkdir("operators"))
    path = folder / library_name()
    if not path.exists():  # it appears whole or not at all, so that processes side by side do no harm
        build.build(folder, cuda=False)
    torch.ops.load_library(path)
    found = cache_dir() / "ops" / path.name
    found.parent.mkdir(parents=True, exist_ok=True)
    if not found.exists():
        found.symlink_to(path)
    return path
