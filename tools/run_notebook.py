"""Run a notebook and write what its cells show back into it: the same outputs on every machine that runs it alike.

    python tools/run_notebook.py docs/tutorial.ipynb            # run it, store its outputs
    python tools/run_notebook.py docs/tutorial.ipynb --check    # run it, change nothing

Numbers of executions, times and warnings are not stored, so that a run leaves a small difference, or none.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

MOST = 500_000
"""Bytes of a notebook; a repository keeps every version."""
_SECONDS = 300  # for one cell


def execute(path: Path) -> Any:
    """Return a notebook as it is after a run in its own folder.

    Raises:
        CellExecutionError: A cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=_SECONDS, resources={"metadata": {"path": str(path.parent)}}).execute()
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.execution_count = None
            cell.outputs = [_stored(one) for one in cell.outputs if one.get("name") != "stderr"]
    notebook.metadata.pop("widgets", None)
    return notebook


def _stored(output: Any) -> Any:
    """Return an output without what changes from run to run; of pictures and tables the text form is not needed."""
    if "execution_count" in output:
        output["execution_count"] = None
    if "text/html" in output.get("data", {}):
        output["data"].pop("text/plain", None)
    return output


def main() -> int:
    """Run, and store unless it is a check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebook", type=Path)
    parser.add_argument("--check", action="store_true", help="change nothing")
    args = parser.parse_args()
    notebook = execute(args.notebook)
    text = nbformat.writes(notebook)
    print(f"{args.notebook}: {sum(cell.cell_type == 'code' for cell in notebook.cells)} cells, {len(text)} bytes")
    if len(text) > MOST:
        print(f"error: expected at most {MOST} bytes; show smaller pictures, or fewer")
        return 1
    if not args.check:
        args.notebook.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
