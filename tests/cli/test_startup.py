"""What makes a command start sooner stays so."""

from __future__ import annotations

import subprocess
import sys

WATCHED = """
import gc, sys

class Watch:
    def find_spec(self, name, *_):
        if name == "torch":
            print("collects" if gc.isenabled() else "does not collect")

sys.meta_path.insert(0, Watch())
from ovseg.cli import main

photo, folder = sys.argv[1:]
print("status", main(["segment", photo, "--classes", "sea, sand", "--model", "no-such-model", "--output", folder]))
"""


def test_pytorch_is_imported_while_the_garbage_collector_is_off(photo, tmp_path):
    """With it the first result comes a tenth later."""
    command = [sys.executable, "-c", WATCHED, str(photo), str(tmp_path / "out")]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout.split("\n")[:2] == ["does not collect", "status 2"], run.stderr
