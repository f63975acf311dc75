"""A folder is one process's alone, for as long as that lives."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

from ovseg.errors import InputError
from ovseg.system.lock import LOCK, only_here

HOLD = """import sys, time
from ovseg.system.lock import only_here
with only_here(sys.argv[1]):
    print(1, flush=True)
    time.sleep(60)
"""


def test_a_process_that_was_killed_keeps_nobody_out(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "a")], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"1\n"
    with pytest.raises(InputError, match=r"another process is at work in '.*a'; wait"), only_here(tmp_path / "a"):
        pass
    with only_here(tmp_path / "b"):
        pass
    process.kill()
    process.wait()
    process.stdout.close()
    with only_here(tmp_path / "a"):
        assert (tmp_path / "a" / LOCK).exists()
    assert not list((tmp_path / "a").iterdir())


def test_a_disk_without_locks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.warns(UserWarning, match=r"knows no locks \(No locks available\)"), only_here(tmp_path):
        pass
