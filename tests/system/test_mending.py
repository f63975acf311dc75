"""Lines that mend an installation run once each, in their order, and only where a line may run by itself."""

from __future__ import annotations

import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from ovseg.system import mending


@dataclass(frozen=True)
class Found:
    fix: str = ""
    by_hand: bool = False


def touch(path: Path) -> str:
    return f"{shlex.quote(sys.executable)} -c \"open('{path}', 'a').write('x')\""


def test_what_one_line_mends_needs_no_other(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    said: list[str] = []

    def look() -> list[Found]:
        return [Found()] if first.exists() else [Found(touch(first)), Found(touch(second))]

    assert mending.mend(look(), look, said.append) == ([Found()], [])
    assert first.read_text() == "x" and not second.exists()
    assert said == [f"running: {touch(first)}"]
    assert mending.mend(look(), look, said.append) == ([Found()], []) and len(said) == 1


def test_a_line_that_fails_is_said_and_not_run_again(tmp_path: Path) -> None:
    good = tmp_path / "good"

    def look() -> list[Found]:
        return [Found("exit 3"), Found("" if good.exists() else touch(good))]

    said: list[str] = []
    left, failed = mending.mend(look(), look, said.append)
    assert (left, failed) == ([Found("exit 3"), Found()], ["exit 3"])
    assert said[1] == "this line failed with exit status 3" and good.read_text() == "x"


def test_lines_for_the_user_do_not_run(tmp_path: Path) -> None:
    found = [Found(touch(tmp_path / "no"), by_hand=True)]
    assert mending.mend(found, lambda: found, pytest.fail) == (found, [])
    assert not (tmp_path / "no").exists()


def test_environments_of_uv_have_no_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    assert mending.pip_line("install") == f"{shlex.quote(sys.executable)} -m pip install"
    monkeypatch.setattr(mending, "has_pip", lambda: False)
    monkeypatch.setattr(mending.shutil, "which", lambda name: f"/bin/{name}")
    assert mending.pip_line("uninstall") == f"uv pip uninstall --python {shlex.quote(sys.executable)}"
    monkeypatch.setattr(mending.shutil, "which", lambda name: None)
    assert mending.pip_line("install").endswith("-m pip install")


def test_looking_for_pip_leaves_setuptools_alone() -> None:
    """It was: who had asked what mends an installation could compile nothing in the same process."""
    code = "from ovseg.system import mending; assert mending.has_pip(); import ovseg.doctor, setuptools"
    subprocess.run([sys.executable, "-c", code], check=True)
