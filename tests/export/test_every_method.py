"""Every registered method is exported with the agreement that is stated, or refused in a sentence, as the docs say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from ovseg.errors import ConfigError
from ovseg.export.formats import capture
from ovseg.export.plan import Plan
from ovseg.export.run import export
from ovseg.recalibration import list_recalibrations

DOCS = Path(__file__).resolve().parents[2] / "docs" / "export.md"
SMALL = {"SHORT_SIDE": 48, "LONG_SIDE": 96, "PAMR_STEPS": 0, "CLOSING": 0}
"""Of the network's image; what ovseg does behind a graph is left out."""


def promised(name: str) -> tuple[bool, bool]:
    """Return what the docs say of a method: whether it is exported with one size, and with all sizes."""
    row = re.search(rf"^\| {name} \| (yes|no) \| (yes|no) \|", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    assert row is not None, f"the table of methods in docs/export.md has no row of {name}"
    return row[1] == "yes", row[2] == "yes"


def test_the_docs_have_every_method() -> None:
    assert any(promised(name) for name in list_recalibrations())


@pytest.mark.slow
@pytest.mark.parametrize("dynamic", [False, True], ids=["one-size", "all-sizes"])
@pytest.mark.parametrize("name", list_recalibrations())
def test_every_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, dynamic: bool) -> None:
    """With its own settings on `mini`; what is not exported is refused before any work."""
    pytest.importorskip("onnxscript", reason="the extra `export` is not installed")
    captured = list[Any]()
    monkeypatch.setattr("ovseg.export.run.capture", lambda *given: captured.append(given) or capture(*given))
    monkeypatch.setattr("ovseg.export.compare._LONGEST", 160)
    size: dict[str, Any] = {"dynamic": True} if dynamic else {"height": 44, "width": 84}
    plan = Plan(tmp_path / "a.onnx", **size)
    views = {"IMAGE_ENGINEERING": 0.0} if dynamic else {}  # views are the same at all sizes, and slow to capture
    changes = {"MODEL": {"PROTOCOL": {**SMALL, **views}}}
    if not promised(name)[dynamic]:
        with pytest.raises(ConfigError, match=f"^{name.lower()}/mini cannot be exported so: .+$"):
            export(f"{name.lower()}/mini", plan, overrides=changes, report=lambda _: None)
        assert not captured and not list(tmp_path.iterdir())
        return
    found = export(f"{name.lower()}/mini", plan, overrides=changes, report=lambda _: None)
    assert captured and plan.output.is_file()
    assert min(one.agreement for one in found) >= 0.999
