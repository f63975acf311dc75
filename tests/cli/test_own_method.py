"""A new training-free method is one file: it runs through the command line with no other file touched."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

METHOD = '''
"""Key-key attention over the last block, without its feed-forward."""

from ovseg.recalibration.base import RECALIBRATION_REGISTRY, Recalibration, attend


@RECALIBRATION_REGISTRY.register()
class BrandNew(Recalibration):
    feed_forward = False
    without_golden = "it is new"

    def attention(self, q, k, v, context):
        return attend(k, k, v)
'''


def segment(folder, photo, clip, output):
    command = [sys.executable, "-m", "ovseg.cli", "segment", str(photo), "--classes", "cat, dog", "--json"]
    command += ["--model", f"brandnew/{clip}", "--output", str(output)]
    environment = {**os.environ, "OVSEG_METHODS": str(folder)}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_one_file_is_enough(tmp_path, photo, tiny_clip):
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods/brand_new.py").write_text(METHOD)
    done = segment(tmp_path / "methods", photo, tiny_clip, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert '"recalibration": "BrandNew"' in done.stdout
    assert len(list((tmp_path / "out").glob("*.png"))) == 2


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def broken(:", "the method 'brand_new' in {} cannot be imported (SyntaxError"),
        (None, "names '{}', which is no"),
    ],
)
def test_mistakes_are_one_line(tmp_path, photo, tiny_clip, source, message):
    folder = tmp_path / "methods"
    if source:
        folder.mkdir()
        (folder / "brand_new.py").write_text(source)
    done = segment(folder, photo, tiny_clip, tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert message.format(folder) in done.stderr
