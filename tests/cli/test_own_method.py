"""A new training-free method is one file: it runs through the command line with no other file touched."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

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

PAGE = Path(__file__).parents[2] / "docs/extending.md"
OPTION = """
    def __init__(self, *, strength: float = 1.0, **common):
        super().__init__(**common)
        self.strength = strength

    def attention("""


def segment(folder, photo, model, output):
    command = [sys.executable, "-m", "ovseg.cli", "segment", str(photo), "--classes", "cat, dog", "--json"]
    command += ["--model", model, "--output", str(output)]
    environment = {**os.environ, "OVSEG_METHODS": str(folder)}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_one_file_is_enough(tmp_path, photo, tiny_clip):
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods/brand_new.py").write_text(METHOD)
    done = segment(tmp_path / "methods", photo, f"brandnew/{tiny_clip}", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert '"recalibration": "BrandNew"' in done.stdout
    assert len(list((tmp_path / "out").glob("*.png"))) == 2


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def broken(:", "'brand_new' in {} cannot be imported (SyntaxError"),
        (None, "names '{}', which is no"),
    ],
)
def test_mistakes_are_one_line(tmp_path, photo, tiny_clip, source, message):
    folder = tmp_path / "methods"
    if source:
        folder.mkdir()
        (folder / "brand_new.py").write_text(source)
    done = segment(folder, photo, f"brandnew/{tiny_clip}", tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert message.format(folder) in done.stderr


@pytest.mark.parametrize(
    ("first", "value", "message"),
    [
        ("", "0.5", ""),
        ("from __future__ import annotations\n", "2", ""),
        ("from __future__ import annotations\n", "strong", "option strength is 'strong' (str); expected float"),
    ],
)
def test_the_example_of_the_docs_with_an_option(tmp_path, photo, tiny_clip, first, value, message):
    example = re.search(r"```python\n(from ovseg.recalibration.base .*?)```", PAGE.read_text(), re.DOTALL)[1]
    assert example.count("\n    def attention(") == 1
    (tmp_path / "mine.py").write_text(first + example.replace("\n    def attention(", OPTION))
    config = tmp_path / "mine.yaml"
    config.write_text(
        f"VERSION: 2\nMODEL:\n  CLIP: {{FOLDER: '{tiny_clip}'}}\n  PROTOCOL: {{SHORT_SIDE: 64}}\n"
        f"  RECALIBRATION: {{NAME: MyMethod, OPTIONS: {{STRENGTH: {value}}}}}\n"
    )
    done = segment(tmp_path, photo, str(config), tmp_path / "out")
    if message:
        assert (done.returncode, done.stderr) == (2, f"error: {message}\n")
    else:
        assert done.returncode == 0, done.stderr
        assert f'"strength": {value}' in done.stdout and '"recalibration": "MyMethod"' in done.stdout
