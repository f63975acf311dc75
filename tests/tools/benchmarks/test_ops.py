"""The benchmark of operators: what it prints, writes and fails on."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[3] / "tools"))
import benchmark
import benchmarks.ops as tool
from benchmarks.ops_cases import OpCase

RUN = ["ops", "--repeats", "2", "--device", "cpu"]


def case(speedup: float = 0.0, error: float = 0.0, memory: float = 1e9) -> OpCase:
    x = torch.ones(8)
    calls = (lambda: x + 1, lambda: x + 1 + error)
    return OpCase("mask_pool:tiny", "8 numbers", "one and", lambda _: calls, 64, 8, speedup, memory)


@pytest.fixture
def use(monkeypatch):
    """Measure one tiny case in this process: fresh ones take seconds."""
    monkeypatch.setattr(tool, "in_fresh_process", lambda measure, task, _: measure(task))
    monkeypatch.setattr(tool, "load_kernels", lambda: None)
    monkeypatch.setattr(tool, "measure_machine", lambda _: tool.Machine(1e9, 1e9))
    return lambda one: monkeypatch.setattr(tool, "CASES", (one,))


def test_measures_writes_and_compares(use, tmp_path, capsys):
    use(case())
    path = tmp_path / "ops.json"
    assert benchmark.main([*RUN, "--json", str(path)]) == 0
    report = json.loads(path.read_text())
    (row,) = report["rows"]
    assert (row["name"], row["baseline"], row["error"], report["problems"]) == ("mask_pool:tiny", "one and", 0, [])
    assert row["share_of_limit"] == pytest.approx(max(64e-9, 8e-9) / row["seconds"])
    report["rows"][0]["speedup"] = 1e6
    path.write_text(json.dumps(report))
    assert benchmark.main([*RUN, "--compare", str(path)]) == 1
    assert "it was 1000000.00" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("limits", "message"),
    [({"speedup": 1e6}, "times the baseline's speed"), ({"error": 0.5}, "differs from the baseline by 5.0e-01")],
)
def test_fails_on_its_limits(use, capsys, limits, message):
    use(case(**limits))
    assert benchmark.main(RUN) == 1
    assert message in " ".join(capsys.readouterr().out.split())


def test_memory_has_a_limit():
    row = {"name": "mask_pool", "speedup": 9.0, "memory": 50, "baseline_memory": 100, "error": 0.0, "kernel": True}
    assert tool.find_problems([row], {}) == ["mask_pool: 50% of the baseline's memory, limit 25%"]


@pytest.mark.parametrize("words", [["--only", "mask_pol"], ["--compare", "/no/such/file"]])
def test_mistakes(words, capsys):
    assert benchmark.main([*RUN, *words]) == 2
    assert "did you mean mask_pool" in (err := capsys.readouterr().err) or "expected a file that --json wrote" in err
