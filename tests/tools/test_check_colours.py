"""The colours of all presets and examples keep their bounds, and the command says so."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
import check_colours as tool

from ovseg.vocabulary import list_presets


def test_every_bound_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main([]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in [*list_presets(), "beach.jpg", "street.jpg", "tritan"])
    assert shown.endswith("every bound is kept\n")


def test_a_missed_bound_is_an_exit_code(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool, "bound_for", lambda count: 500)
    assert tool.main(["cat, sofa", "cat,"]) == 1
    assert "MISSED" in capsys.readouterr().out
