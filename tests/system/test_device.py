"""Memory that was freed goes back to the system."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from ovseg.system.device import give_back

HOLES = """
import sys
import torch
from pathlib import Path
from ovseg.system.device import give_back

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1])

blocks = [torch.ones(2**18) for _ in range(200)]  # of 1 MiB
del blocks[:-1]  # the last one keeps the heap from shrinking by itself
before = resident()
give_back(torch.device("meta"))
assert resident() == before
give_back(torch.device("cpu"))
print((before - resident()) * 4096 / 2**20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only there the C library is asked")
def test_holes_in_the_heap_are_given_back():
    limits = {"MALLOC_MMAP_THRESHOLD_": str(2**24), "MALLOC_TRIM_THRESHOLD_": str(2**30)}
    environment = {**os.environ, **limits}
    run = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=True, env=environment)
    assert float(run.stdout) > 150


def test_a_compiled_graph_does_without():
    def work(x):
        give_back(x.device)
        return x + 1

    compiled = torch.compile(work, fullgraph=True, backend="eager")
    assert torch.equal(compiled(torch.ones(3)), torch.full((3,), 2.0))
