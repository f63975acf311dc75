"""``ovseg models``: aliases and one table, in terminals and pipes; what it leaves out, and what it says as JSON."""

from __future__ import annotations

import json
import re

import pytest

from ovseg.cli import main
from ovseg.cli.models import row_of
from ovseg.zoo import auto, list_models
from ovseg.zoo.aliases import aliases


def printed(capsys, *arguments):
    assert main(["models", *arguments]) == 0
    return capsys.readouterr().out


def test_aliases_come_first_and_all_of_it_fits_100_columns(capsys):
    lines = printed(capsys).splitlines()
    assert max(map(len, lines)) <= 100
    firsts = [line.split()[0] for line in lines if line[:1].strip()]
    assert firsts[: firsts.index("name")] == ["alias", *aliases()]
    rows = firsts[firsts.index("name") + 1 :][: len(list_models())]
    assert sorted(rows) == sorted(card.name.replace("ARCHITECTURE", "ARCH") for card in list_models())
    (row,) = [line for line in lines if line.startswith("san-vit-b-16")]
    assert row.split() == ["san-vit-b-16", "semantic", "Apache-2.0", "/", "MIT", "yes", "631", "MB", "no"]
    (row,) = [line for line in lines if line.startswith("maftp-b ")]
    assert row.split()[3:6] == ["/", "unclear", "no?"]


@pytest.mark.parametrize("columns", [80, 100, 140])
def test_in_a_terminal_nothing_is_cut(columns, capsys, monkeypatch):
    from rich.console import Console

    monkeypatch.setattr("ovseg.system.terminal.console", lambda stderr=False: Console(width=columns))
    out = printed(capsys)
    table = out.split("\n\n")[1]
    assert max(map(len, table.splitlines())) <= min(columns, 100) and "…" not in out
    for card in list_models():
        assert all(part in table for part in re.split("[/-]", row_of(card)[0]))  # where long names may be folded


def test_what_is_installed_and_what_is_free_for_commerce(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("OVSEG_CACHE", str(tmp_path))
    installed = json.loads(printed(capsys, "--installed", "--json"))
    assert [card["name"] for card in installed] == ["mini", "mini-clearclip"]
    assert "san-vit" not in printed(capsys, "--installed") and "alias" in printed(capsys, "--installed")
    free = {card["name"]: card for card in json.loads(printed(capsys, "--commercial", "--json"))}
    assert "san-vit-b-16" in free and "maftp-b" not in free and "sclip/ARCHITECTURE/TAG" not in free
    assert free["san-vit-b-16"]["aliases"] == ["auto", "fast"] and free["mini"]["aliases"] == []
    assert all(card["commercial"] for card in free.values())


def test_details_of_aliases_fetch_nothing(capsys, monkeypatch):
    monkeypatch.setattr(auto, "find_released", lambda *given: pytest.fail("fetched"))
    monkeypatch.setenv("OVSEG_DOWNLOAD", "yes")
    for alias in ("auto", "fast"):
        assert json.loads(printed(capsys, "--details", alias, "--json"))["name"] == "san-vit-b-16"


@pytest.mark.parametrize(
    "flags",
    [["--backbones", "--installed"], ["--details", "mini", "--commercial"], ["--details", "mini", "--backbones"]],
)
def test_flags_that_do_not_go_together_are_not_dropped(capsys, flags):
    assert main(["models", *flags]) == 2
    assert "do not go together; leave one out" in capsys.readouterr().err
    assert main(["models", "--installed", "--commercial"]) == 0
