"""Work shared out over processes: a process that is killed costs what it had to do, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

KILLED = """
import os, signal
from ovseg.errors import EnvironmentProblem
from ovseg.jobs.share import share_out

def work(items, rank, tell):
    for one in items:
        tell(one)
    if rank == 0:
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    told = []
    try:
        share_out(work, range(20_000), 2, told.append)
    except EnvironmentProblem as error:
        print(error)
    print(sorted(told) == list(range(20_000)))
"""

WARNS = """
import warnings
from ovseg.jobs.share import share_out

def work(items, rank, tell):
    warnings.warn("said by the first process already")
    tell(rank)

if __name__ == "__main__":
    share_out(work, range(2), 2, print)
"""


def test_what_the_first_process_has_said_is_not_said_again(tmp_path: Path) -> None:
    script = tmp_path / "warns.py"
    script.write_text(WARNS)
    found = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=True)
    assert (sorted(found.stdout.split()), found.stderr) == (["0", "1"], "")


def test_a_process_that_is_killed_while_it_tells_keeps_no_other_from_telling(tmp_path: Path) -> None:
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    found = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=True)
    problem, whole = found.stdout.splitlines()
    assert problem.startswith("process 1 of 2 ended with -9 (memory?); what was done is kept") and whole == "True"
