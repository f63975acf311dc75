"""docs/methods.md has one row for each registered method, with the goldens that are there."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
import make_methods_page as tool

from ovseg.errors import InputError
from ovseg.recalibration import list_recalibrations, recalibration_class

ROOT = Path(__file__).resolve().parents[2]
ROWS = [line.split(" | ") for line in (ROOT / "docs/methods.md").read_text().splitlines() if line.startswith("| [")]


def test_one_row_for_each_method():
    assert [re.search(r"\[(\w+)\]", row[0])[1] for row in ROWS] == list_recalibrations()
    for row in ROWS:
        path = re.search(r"\(\.\./(.+)\)", row[0])[1]
        assert (ROOT / path).is_file() and all(cell.strip(" |") for cell in row)


def test_the_way_out_is_that_of_the_originals():
    """Of whole images: NACLIP, ResCLIP, RF-CLIP and what is in mmsegmentation interpolate twice, the others once."""
    ways = {re.search(r"\[(\w+)\]", row[0])[1]: row[3] for row in ROWS}
    assert {name for name, way in ways.items() if way == "by the input's size"} == {
        "NACLIP",
        "ResCLIP",
        "RF_CLIP",
        "MaskCLIP",
        "CLIP_DINOiser",
    }
    assert {tool.way_out(name) == way for name, way in ways.items()} == {True}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_goldens_are_those_of_the_folder(row):
    name = re.search(r"\[(\w+)\]", row[0])[1]
    cases = len(list((ROOT / "tests/golden" / name.lower()).glob("*.json")))
    expected = f"{cases} of {cases}" if cases else f"none: {recalibration_class(name).without_golden}"
    assert row[-1].strip(" |") == expected


def test_costs_say_where_they_were_measured_and_of_what():
    costs = tool.read_costs()
    for name, own in costs["rows"].items():
        assert own["attention_only"] == recalibration_class(name).attention_only, name
    marked = {re.search(r"\[(\w+)\]", row[0])[1] for row in ROWS if row[2].endswith(tool.MARK)}
    assert marked == {name for name, own in costs["rows"].items() if own.get("where")}
    page = (ROOT / "docs/methods.md").read_text()
    assert all(own["where"] in page for own in (costs, *costs["rows"].values()) if own.get("where"))


def test_a_method_without_a_measured_cost_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setattr(tool, "COSTS", tmp_path / "costs.json")
    with pytest.raises(InputError, match=r"make it with tools/benchmark\.py recalibrations"):
        tool.read_costs()
    tool.COSTS.write_text('{"rows": [{"method": "CLIP", "ratio": 1.0}]}')
    with pytest.raises(InputError, match="lacks CLIP_DINOiser"):
        tool.read_costs()


def test_check_tells_when_the_page_is_old(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(tool, "PAGE", tmp_path / "methods.md")
    monkeypatch.setattr(tool, "page", lambda: "new")
    assert tool.main(["--check"]) == 1 and "out of date" in capsys.readouterr().out
    assert tool.main([]) == 0 and tool.PAGE.read_text() == "new"
    assert tool.main(["--check"]) == 0
