"""The check for the day with a GPU: its parts tell right from wrong, and a dry run on the CPU goes through."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import check_golden  # noqa: E402
from gpu_checks import check, goldens, operators, packages, rows, speed  # noqa: E402
from gpu_checks.rows import Job, Row, Skipped  # noqa: E402

JOB = Job(torch.device("cpu"), small=True)


def test_the_listed_goldens_are_there_and_small() -> None:
    files = [goldens.FOLDER / f"{name}{end}" for name in goldens.names() for end in (".json", ".safetensors")]
    assert all(file.is_file() for file in files)
    assert sum(file.stat().st_size for file in files) <= 15e6
    assert set(goldens.SMALL) <= set(goldens.names()) and len(set(goldens.names())) == len(goldens.names())
    assert all(check_golden.find_runner(name.split("/")[0]) for name in goldens.names())


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_golden_tells_right_from_wrong(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "naclip/square_native_p16"
    assert goldens.check(name, dtype, JOB).status == "ok"
    right = check_golden.find_runner("naclip")
    assert right is not None

    def wrong(case: check_golden.Case) -> dict[str, torch.Tensor]:
        return {key: -value if value.is_floating_point() else value for key, value in right(case).items()}

    monkeypatch.setattr(check_golden, "find_runner", lambda method: wrong)
    found = goldens.check(name, dtype, JOB)
    assert found.status == "FAIL" and found.numbers["error"] > 1


def test_operators_agree_and_a_wrong_one_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert operators.parity("ms_deform_attn", "fp16", JOB).status == "ok"
    assert operators.parity("class_argmax", "fp32", JOB).status == "ok"
    assert operators.gradcheck("ms_deform_attn", JOB).status == "ok"
    right = operators.ms_deform_attn
    monkeypatch.setattr(operators, "ms_deform_attn", lambda *arguments: 1.1 * right(*arguments))
    assert operators.parity("ms_deform_attn", "fp32", JOB).status == "FAIL"


def test_what_breaks_down_is_a_row() -> None:
    def broken() -> Row:
        raise RuntimeError("CUDA error: out of memory\nmore")

    def absent() -> Row:
        raise Skipped("no weights")

    assert vars(rows.found("a", broken)) == vars(Row("a", "FAIL", "RuntimeError: CUDA error: out of memory"))
    assert rows.found("b", absent).status == "skipped"


def test_the_machine_is_measured() -> None:
    rates: dict[str, float] = {}
    found = speed.machine(JOB, rates)
    assert found.numbers["copy GB/s"] > 0 and rates.keys() == {"fp32", "fp16", "bf16"}
    with pytest.raises(Skipped, match="CUDA alone"):
        speed.graph("a", None, torch.zeros(1), JOB, 1)


def test_requirements_are_those_of_setup() -> None:
    names = [packages.name_of(requirement) for requirement in packages.requirements()]
    assert {"torch", "open_clip_torch", "numpy", "fvcore"} < set(names)
    assert not {"setuptools"} & set(names)
    assert packages.missing() == []


def test_a_missing_package_comes_from_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "requirements", lambda: ["no-such-package>=1.0", "numpy>=1"])
    assert packages.missing() == ["no-such-package>=1.0"]
    with pytest.raises(RuntimeError, match="no-such-package"):
        packages.install(tmp_path)


def test_parts_after_the_limit_and_failures_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check, "machine", lambda: dict.fromkeys(("gpu", "torch", "nvcc", "python"), "x"))
    monkeypatch.setattr(check, "command_of", lambda part, args, report: [sys.executable, "-c", "print('no'); exit(3)"])
    arguments = ["--device", "cpu", "--output", str(tmp_path)]
    assert check.main([*arguments, "--parts", "operators", "--limit", "60"]) == 1
    assert "ended with 3: no" in capsys.readouterr().out
    assert check.main([*arguments, "--parts", "operators,goldens", "--limit", "0"]) == 1
    report = json.loads((tmp_path / "report.json").read_text())
    assert [step["status"] for step in report["steps"]] == ["FAIL", "FAIL"]
    assert "| goldens | FAIL | 0 | not begun: the 0 seconds are over |" in (tmp_path / "report.md").read_text()
    monkeypatch.setattr(check, "command_of", lambda *_: [sys.executable, "-c", "import time; time.sleep(60)"])
    assert check.main([*arguments, "--parts", "speed", "--limit", "1"]) == 1


def test_numbers_of_benchmarks_become_rows() -> None:
    found = {"rows": [{"name": "mask_pool", "seconds": 0.5, "share_of_limit": 0.25, "error": 0.0, "kernel": True}]}
    (row,) = check.rows_of_benchmark(found)
    assert row["numbers"] == {"ms": 500.0, "of limit %": 25.0, "error": 0.0}
    (figure,) = check.rows_of_benchmark({"figures": [{"name": "images per second", "value": 3.0, "unit": "1/s"}]})
    assert figure["numbers"] == {"1/s": 3.0}


@pytest.mark.slow
def test_a_dry_run_on_the_cpu_goes_through(tmp_path: Path) -> None:
    command = [str(ROOT / "tools/gpu_check.sh"), "--device", "cpu", "--output", str(tmp_path), "--limit", "1500"]
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    status = {step["name"]: step["status"] for step in report["steps"]}
    assert list(status) == list(check.PARTS)
    assert [name for name, one in status.items() if one != "ok"] == ["benchmark vocabulary"]
    found = {row["name"] for step in report["steps"] for row in step["rows"]}
    assert {"mini, bf16", "san/full_nonsquare_pad, fp16", "mask_pool: gradcheck", "machine"} <= found
    assert "| goldens: " in (tmp_path / "report.md").read_text()
