"""The checks of an installation find what is missing, what fails, and what cannot be tried; no network is needed."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from install_checks import environments, matrix, steps  # noqa: E402
from install_checks.environments import CannotCheck, Environment  # noqa: E402
from install_checks.steps import Bench, Failed  # noqa: E402


def stand_in(folder: Path, text: str) -> Environment:
    """An environment whose `ovseg` is a shell script."""
    program = folder / "environment/bin/ovseg"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return Environment(folder / "environment")


def test_a_wheel_that_lacks_files_is_found(tmp_path: Path) -> None:
    wheel = tmp_path / "a.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("ovseg/__init__.py", "")
    missing = environments.missing_files(wheel)
    assert {"ovseg/config.py", "ovseg/zoo/configs/san/mini.yaml", "ovseg/serve/examples/beach.jpg"} < set(missing)
    assert {"ovseg/ops/csrc/mask_pool.cu", "ovseg/assets/mini/san.safetensors", "ovseg/py.typed"} < set(missing)
    assert "ovseg/__init__.py" not in missing and not any("__pycache__" in name for name in missing)


def test_nothing_of_this_shell_reaches_a_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/a/checkout")
    monkeypatch.setenv("OVSEG_CACHE", "/a/cache")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    variables = Environment(tmp_path).variables({"MORE": "x"})
    assert not {"PYTHONPATH", "OVSEG_CACHE"} & variables.keys()
    assert variables["PIP_NO_INDEX"] == "1" and variables["MORE"] == "x"
    assert variables["PATH"].split(os.pathsep)[0] == str(tmp_path / "bin")


def test_steps_go_on_after_one_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_: Bench) -> str:
        raise CannotCheck("no such command")

    def broken(_: Bench) -> str:
        raise Failed("it is not there")

    monkeypatch.setattr(steps, "STEPS", {"a": broken, "b": absent, "c": lambda _: "fine"})
    said: list[str] = []
    outcomes = steps.run_steps(Bench(Environment(tmp_path), tmp_path), say=said.append)
    assert [(one.name, one.status, one.remark) for one in outcomes] == [
        ("a", "FAIL", "it is not there"),
        ("b", "skipped", "no such command"),
        ("c", "ok", "fine"),
    ]
    assert len(said) == 3


def test_a_command_that_fails_or_shows_a_traceback_fails_its_step(tmp_path: Path) -> None:
    bench = Bench(stand_in(tmp_path, 'echo "error: no such thing" >&2; [ "$1" = good ] || exit 2'), tmp_path)
    assert "no such thing" in bench.ovseg("good")
    with pytest.raises(Failed, match="`ovseg bad` ended with 2: error: no such thing"):
        bench.ovseg("bad")
    shown = Bench(stand_in(tmp_path / "b", "echo Traceback"), tmp_path)
    with pytest.raises(Failed, match="traceback"):
        shown.ovseg("anything")


def test_export_is_skipped_where_there_is_none(tmp_path: Path) -> None:
    bench = Bench(stand_in(tmp_path, 'echo "    segment    label every pixel"'), tmp_path)
    with pytest.raises(CannotCheck, match="no `ovseg export`"):
        steps.export(bench)


def test_a_server_that_ends_at_once_says_why(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="said no address: the port is taken"):
        steps.serve(Bench(stand_in(tmp_path, "echo the port is taken; exit 1"), tmp_path))


REPORT = """<testsuites><testsuite>
<testcase classname="tests.a" name="good"/><testcase classname="tests.a" name="bad"><failure message="x"/></testcase>
<testcase classname="tests.a" name="gone"><skipped/></testcase>
<testcase classname="tests.b" name="odd"><error/></testcase>
</testsuite></testsuites>"""


def test_the_table_has_what_was_found(tmp_path: Path) -> None:
    (tmp_path / "tests.xml").write_text(REPORT)
    counts, names = matrix.read_report(tmp_path / "tests.xml")
    assert (counts, names) == ("1 passed, 2 failed, 1 skipped", ["tests.a.bad", "tests.b.odd"])
    row = matrix.Row("3.10", "oldest", "torch 2.4.0", "10 of 11 steps", counts, 3.4)
    assert "| 3.10 | oldest: torch 2.4.0 | 10 of 11 steps | 1 passed, 2 failed, 1 skipped | 3 |" in matrix.table([row])


def test_what_cannot_be_had_is_a_row_that_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent(version: str) -> Path:
        raise CannotCheck(f"there is no Python {version} here")

    monkeypatch.setattr(matrix, "find_uv", lambda tools: tmp_path / "uv")
    monkeypatch.setattr(matrix, "build", lambda folder: tmp_path / "a.whl")
    monkeypatch.setattr(matrix, "find_python", absent)
    assert matrix.main(["--pythons", "3.10", "--suite", "none", "--json", str(tmp_path / "rows.json")]) == 2
    out = capsys.readouterr().out
    assert out.count("skipped: there is no Python 3.10 here") == 2
    assert "| 3.10 | newest: there is no Python 3.10 here | skipped |" in out
    assert (tmp_path / "rows.json").is_file()


@pytest.mark.parametrize("arguments", [["--pythons", "2.7"], ["--bounds", "middle"]])
def test_mistakes_are_named(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        matrix.parse_args(arguments)
    assert "expected some of" in capsys.readouterr().err


@pytest.mark.parametrize("script", ["test_matrix.sh", "gpu_check.sh"])
def test_scripts_run_from_any_folder(script: str, tmp_path: Path) -> None:
    command = [str(ROOT / "tools" / script), "--help"]
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"usage: tools/{script}" in done.stdout


def test_the_tool_for_one_environment_needs_the_standard_library_alone(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(ROOT / "tools/check_package.py"), "--only", "nothing"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and "unknown step 'nothing'" in done.stderr
