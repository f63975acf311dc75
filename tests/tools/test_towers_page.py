"""docs/towers.md says what is computed, and is up to date."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
import make_towers_page as tool

from ovseg.recalibration import list_recalibrations
from tests.clip.pairs import FAMILIES, fits

TEXT = tool.PAGE.read_text(encoding="utf-8")
ROWS = [line.strip("| ").split(" | ") for line in tool.table().splitlines()]


def test_the_page_is_up_to_date():
    assert tool.page() == TEXT, "run tools/make_towers_page.py"


def test_every_pair_is_in_the_table():
    groups = [head.split(", ") for head in ROWS[0][1:-2]]
    assert sorted(name for names in groups for name in names) == sorted(list_recalibrations())
    cells = {line.split(" | ")[0].strip("| "): line.split("|")[2:] for line in tool.table().splitlines()[2:]}
    assert list(cells) == list(FAMILIES)
    for family, ticks in cells.items():
        for names, tick in zip(groups, ticks, strict=False):
            assert all(fits(name, family) == (tick.strip() == "yes") for name in names)


def test_check_tells_when_the_page_is_old(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(tool, "PAGE", tmp_path / "towers.md")
    monkeypatch.setattr(tool, "page", lambda: "new")
    assert tool.main(["--check"]) == 1 and "out of date" in capsys.readouterr().out
    assert tool.main([]) == 0 and tool.PAGE.read_text() == "new"
    assert tool.main(["--check"]) == 0
