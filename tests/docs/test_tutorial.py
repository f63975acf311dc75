"""The tutorial runs from its first cell to its last, and what is stored of it is small and shows what cells show."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
TUTORIAL = ROOT / "docs/tutorial.ipynb"


def cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def shown(cell: dict[str, Any]) -> list[str]:
    """Return the kinds of what a cell shows."""
    return [kind for output in cell["outputs"] for kind in output.get("data", {output["output_type"]: ""})]


@pytest.fixture
def runner() -> ModuleType:
    pytest.importorskip("nbclient")
    spec = importlib.util.spec_from_file_location("run_notebook", ROOT / "tools/run_notebook.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_stored_is_small_and_of_no_machine() -> None:
    text = TUTORIAL.read_text(encoding="utf-8")
    assert len(text) < 500_000
    without = re.sub(r"base64,[\w+/=]+", "", text)
    assert not re.search(r"/(home|root|tmp|work|Users)/", without) and "stderr" not in without
    found = cells(json.loads(text))
    assert all(cell["execution_count"] is None for cell in found)
    kinds = [kind for cell in found for kind in shown(cell)]
    assert kinds.count("text/html") >= 6 and without.count("data:image/png") >= 8
    assert all(shown(cell) for cell in found if "import ovseg" not in "".join(cell["source"]))


@pytest.mark.slow
def test_each_cell_runs_and_shows_what_is_stored(runner: ModuleType, tmp_path: Path) -> None:
    for name in ("docs", "examples"):
        (tmp_path / name).mkdir()
    shutil.copy(TUTORIAL, tmp_path / "docs")
    shutil.copy(ROOT / "examples/beach.jpg", tmp_path / "examples")
    done, stored = runner.execute(tmp_path / "docs/tutorial.ipynb"), json.loads(TUTORIAL.read_text(encoding="utf-8"))
    assert [shown(cell) for cell in cells(done)] == [shown(cell) for cell in cells(stored)]
    assert (tmp_path / "docs/tutorial.ipynb").read_bytes() == TUTORIAL.read_bytes()  # storing is asked for


@pytest.mark.slow
def test_a_cell_that_fails_is_an_error(runner: ModuleType, tmp_path: Path) -> None:
    import nbformat

    path = tmp_path / "bad.ipynb"
    cell = nbformat.v4.new_code_cell("1 / 0")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    with pytest.raises(Exception, match="ZeroDivisionError"):
        runner.execute(path)
