"""docs/models.md has every model of the zoo, what its card says, and what was measured."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
import make_models_page as tool

from ovseg.errors import InputError
from ovseg.zoo import list_models
from ovseg.zoo.aliases import aliases

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/models.md").read_text(encoding="utf-8")


def test_the_page_is_up_to_date() -> None:
    assert tool.main(["--check"]) == 0


def test_each_model_has_its_two_rows() -> None:
    for card in list_models():
        rows = [line for line in PAGE.splitlines() if line.startswith(f"| `{card.name}` |")]
        facts, numbers = rows[:2]
        assert card.weights_licence in facts and card.task in facts
        assert (card.reported or "no number is on its card") in numbers
        assert re.search(r"\d+ of \w+|none: see", numbers)


def test_released_models_say_what_they_have_seen_and_are_good_for() -> None:
    assert [card.name for card in list_models() if card.weights != "open_clip" and not card.trained_on] == []
    assert [card.name for card in list_models() if card.weights != "open_clip" and not card.good_for] == []


def test_numbers_that_rank_models_are_those_that_are_reported() -> None:
    for card in list_models():
        for value in (card.ade150, card.ade_pq):
            assert not value or re.search(rf"(?<![\d.]){re.escape(str(value))}(?![\d.])", card.reported), card.name


@pytest.mark.parametrize("name", ["fast", "best", "panoptic"])
def test_aliases_stand_there_with_their_rules(name: str) -> None:
    alias = aliases()[name]
    assert f"| `{name}` | `{alias.model}` | {alias.means} |" in PAGE


def test_what_was_measured_stands_in_its_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tool, "COSTS", tmp_path / "costs.json")
    own = {"model": "sed-b", "units": 7.25, "seconds": 1.5, "memory_mib": 300.4, "where": "a machine, 2 threads"}
    tool.COSTS.write_text(json.dumps({"rows": [own]}))
    rows = [line for line in tool.page().splitlines() if line.startswith(("| `sed-b` |", "| `sed-l` |"))]
    assert "7.2 units (1.50 s), 300 MiB; a machine, 2 threads" in rows[2] and tool.NOT_MEASURED in rows[3]
    tool.COSTS.write_text("{}")
    with pytest.raises(InputError, match=r"make them by tools/benchmark\.py model-costs"):
        tool.page()


def test_check_tells_when_the_page_is_old(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tool, "PAGE", tmp_path / "models.md")
    assert tool.main(["--check"]) == 1 and "out of date" in capsys.readouterr().out
    assert tool.main([]) == 0 and tool.PAGE.read_text(encoding="utf-8") == PAGE
