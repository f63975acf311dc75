"""Devices are found by name, and memory that was freed goes back to the system."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from ovseg.errors import ConfigError
from ovseg.system.device import give_back, resolve_device


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cuda:7", "device 'cuda:7' is not here; expected cuda:0 or cuda:1"),
        ("cpu:1", "device 'cpu:1' is not here; expected cpu:0"),
        ("auto:1", "unknown device 'auto:1'; expected one of auto, cpu, cuda, mps, or for example cuda:1"),
        ("gpu", "unknown device 'gpu'"),
        ("cuda:x", "device 'cuda:x' is not valid"),
        ("mps", "device 'mps' is not available here; use --device cuda"),
    ],
)
def test_devices_that_are_not_here(name, message, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ConfigError) as caught:
        resolve_device(name)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)
    assert [str(resolve_device(one)) for one in ("auto", "cuda", "cuda:1", "cpu:0")] == [
        "cuda",
        "cuda",
        "cuda:1",
        "cpu:0",
    ]


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
