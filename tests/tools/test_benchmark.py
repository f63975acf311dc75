"""The benchmark measures memory that is really used, and fails when a limit or the labels do not hold."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
import benchmark

SMALL = ["postprocess", "--size", "64x48", "--grid", "8x6", "--device", "cpu"]
CPU = torch.device("cpu")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure in this process: a fresh one for each case takes seconds."""
    monkeypatch.setattr(benchmark, "run_case", lambda case: benchmark.measure(case) if benchmark.fits(case) else None)


def case(method: str = benchmark.OURS, classes: int = 30, size: tuple[int, int] = (48, 64)) -> benchmark.Case:
    return benchmark.Case(method, classes, (6, 8), size, 1, CPU)


@pytest.mark.usefixtures("here")
def test_postprocess_prints_and_writes_what_it_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new folder/numbers.json"
    assert benchmark.main([*SMALL, "--classes", "1,30", "--json", str(path)]) == 0
    report = json.loads(path.read_text())
    assert (report["size"], report["grid"], report["device"], report["problems"]) == ([48, 64], [6, 8], "cpu", [])
    assert [(row["classes"], row["method"]) for row in report["rows"]] == [
        (classes, method) for classes in (1, 30) for method in (benchmark.OURS, benchmark.BASELINE)
    ]
    assert all(row["seconds"] > 0 and row["extra_mib"] >= 0 for row in report["rows"])
    assert [row["agreement"] for row in report["rows"]] == [1.0, None, 1.0, None]
    printed = capsys.readouterr().out
    assert "8x6 patches to 64x48 pixels" in printed and printed.count("segment_map") == 2


def test_a_case_runs_in_a_process_of_its_own() -> None:
    found = benchmark.run_case(case())
    assert found is not None and found.agreement == 1.0 and found.seconds > 0 and found.extra_mib < 100


@pytest.mark.usefixtures("here")
def test_the_exit_status_tells_of_too_much_memory(capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark.main([*SMALL, "--classes", "3", "--limit-mb", "-1"]) == 1
    assert re.search(r"FAIL 3 classes: \d+ MiB extra; limit -1 MB", capsys.readouterr().out)


@pytest.mark.usefixtures("here")
def test_the_exit_status_tells_of_wrong_labels(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = benchmark.segment_map

    def slightly_wrong(*arguments: object) -> tuple[torch.Tensor, torch.Tensor]:
        labels, scores = right(*arguments)
        labels[0, 0] += 1  # one of 3,072 pixels: more than 1 in 10,000
        return labels, scores

    monkeypatch.setattr(benchmark, "segment_map", slightly_wrong)
    assert benchmark.main([*SMALL, "--classes", "5"]) == 1
    assert "FAIL 5 classes: labels agree on 99.9674% of the pixels only" in capsys.readouterr().out


@pytest.mark.usefixtures("here")
def test_a_baseline_that_does_not_fit_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark, "fits", lambda case: case.method == benchmark.OURS)
    assert benchmark.main([*SMALL, "--classes", "5"]) == 0
    assert "does not fit" in capsys.readouterr().out


def test_what_fits() -> None:
    assert benchmark.fits(case(benchmark.BASELINE))
    assert not benchmark.fits(case(benchmark.BASELINE, classes=10**6, size=(10**5, 10**5)))


def test_the_reference_is_the_baseline() -> None:
    logits = torch.randn(21, 5, 7, generator=torch.Generator().manual_seed(0))
    assert torch.equal(benchmark.reference_labels(logits, (40, 33)), benchmark.baseline(logits, (40, 33)))


ALLOCATE = """
import sys, time
sys.path.insert(0, sys.argv[1])
import benchmark, torch
torch.ones(10).mul_(2).sum()  # what the first operation loads is not ours
with benchmark.PeakMemory(torch.device("cpu")) as large:
    held = torch.ones(40 * 2**20 // 4)
    time.sleep(0.1)  # the sampler is a thread, and a busy machine may not run it at once
    del held
with benchmark.PeakMemory(torch.device("cpu")) as small:
    torch.ones(1000).sum()
print(large.extra / 2**20, small.extra / 2**20)
"""


def test_memory_that_is_gone_again_is_seen() -> None:
    """In a process of its own: this one may hold enough freed memory to give."""
    tools = str(Path(__file__).parents[2] / "tools")
    run = subprocess.run([sys.executable, "-c", ALLOCATE, tools], capture_output=True, text=True, check=True)
    large, small = map(float, run.stdout.split())
    assert 38 <= large < 60 and small < 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "big"], "'big' is no size; expected WIDTHxHEIGHT"),
        (["--grid", "0x4"], "'0x4' is no size"),
        (["--classes", "1,many"], "'1,many' are no class counts"),
        (["--repeats", "0"], "'0' is no count; expected 1 or more"),
        (["--device", "abacus"], "error: unknown device 'abacus'"),
        (["--json", "/dev/null/a.json"], "error: output folder '/dev/null' cannot be made"),
    ],
)
def test_mistakes(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status: object = benchmark.main([*SMALL, *arguments])
    except SystemExit as stop:
        status = stop.code
    assert status == 2 and message in capsys.readouterr().err
