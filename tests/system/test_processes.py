"""Groups of processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import multiprocessing, signal

from ovseg.system.processes import ctrl_c_is_ours

def tell(line):
    line.send(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, set()))

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    for _ in range(2):
        ours, theirs = context.Pipe(duplex=False)
        with ctrl_c_is_ours():
            worker = context.Process(target=tell, args=(theirs,))
            worker.start()
        print(ours.recv(), signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, set()))
        worker.join()
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no masks of signals")
def test_processes_leave_ctrl_c_to_the_one_that_started_them(tmp_path: Path) -> None:
    """The very first one, too, before which Python starts a process of its own."""
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("True False\n" * 2, "")
