"""Tables keep their columns in pipes and files, and progress reaches whoever listens."""

from __future__ import annotations

import ast
from pathlib import Path

from rich.table import Table

from ovseg.system import terminal
from ovseg.system.progress import listening, report

ROOT = Path(__file__).parents[2]


def test_a_table_in_a_pipe_keeps_its_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    view = Table()
    for index in range(30):
        view.add_column(f"column {index}")
    view.add_row(*(f"value {1000 + index}" for index in range(30)))
    terminal.console().print(view)
    out = capsys.readouterr().out
    assert all(f"column {index}" in out and f"value {1000 + index}" in out for index in range(30))
    assert len(out.splitlines()) == 5 and max(map(len, out.splitlines())) < 1000  # no wider than it is


def test_consoles_are_made_in_one_place():
    made = []
    for path in [*(ROOT / "ovseg").rglob("*.py"), *(ROOT / "tools").rglob("*.py")]:
        calls = (node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call))
        if any(isinstance(call.func, ast.Name) and call.func.id == "Console" for call in calls):
            made.append(path.relative_to(ROOT).as_posix())
    assert made == ["ovseg/system/terminal.py"]


def test_progress_is_told_to_the_innermost_listener():
    told = []
    report("windows", 1, 2)  # nobody listens
    with listening(lambda *given: told.append(("outer", *given))):
        with listening(lambda *given: told.append(("inner", *given))):
            report("windows", 1, 2)
        report("windows", 2, 2)
    report("windows", 2, 2)
    assert told == [("inner", "windows", 1, 2), ("outer", "windows", 2, 2)]
