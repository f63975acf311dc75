"""`ovseg demo` segments every example photograph of the package."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from ovseg.cli import main

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_an_overlay_of_every_example(tiny_clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--model", str(tiny_clip), "--output", str(tmp_path)]) == 0
    examples = json.loads((EXAMPLES / "examples.json").read_text())
    assert len(examples) >= 4
    assert str(tmp_path) in capsys.readouterr().out
    for name in examples:
        stem = Path(name).stem
        assert Image.open(tmp_path / f"{stem}.overlay.png").width >= Image.open(EXAMPLES / name).width
        assert json.loads((tmp_path / f"{stem}.json").read_text())["meta"]["model"] == str(tiny_clip)


def test_a_package_without_examples_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ovseg.serve import service

    monkeypatch.setattr(service, "examples", dict)
    assert main(["demo", "--output", str(tmp_path / "out")]) == 2
    assert "examples.json' is missing; install ovseg anew" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
