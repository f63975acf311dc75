"""What the folder of a labelling job holds besides labels: what was asked for, of what, what made it, and the log."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ovseg.data.contents import Contents, read_contents, write_contents
from ovseg.errors import InputError
from ovseg.jobs.review.page import PAGE
from ovseg.jobs.rows import PARTS, WHOLE, Row, drop_parts, find_rows
from ovseg.system.files import atomic_write
from ovseg.system.values import dump

FORMAT, JOB = 1, "label"
RUN, INPUTS, SEEN, FAILED = "run.json", "inputs.jsonl", ".seen.jsonl", "failed.jsonl"
"""What was asked for, what made it and how long it took; what the images are called; sizes and times of their files;
what could not be labelled."""
_LEFT_BEHIND = re.compile(r"\.[0-9a-f]{12}\.tmp")


@dataclass(frozen=True, eq=False)
class Held:
    """What a folder holds of a job.

    Attributes:
        values: Of ``run.json``; empty if there is none.
        contents: Of the inputs; None if that is not known.
        names: What the results of each image are called, by its key.
        rows: What is known of each image, by its key; where one was tried again the row that is good.
    """

    values: dict[str, Any] = field(default_factory=dict)
    contents: Contents | None = None
    names: dict[str, str] = field(default_factory=dict)
    rows: dict[str, Row] = field(default_factory=dict)

    @property
    def identity(self) -> dict[str, Any]:
        """What made it, without the inputs."""
        found: dict[str, Any] = self.values.get("identity", {})
        return found

    @property
    def files(self) -> list[str]:
        """Paths of all that was written, below the folder; what was being written when it was killed is not known."""
        rows = [name for row in self.rows.values() for name in row.get("files", [])]
        return [*rows, *self.values.get("files", [])]


def read_folder(folder: Path) -> Held:
    """Read what a folder holds of a job.

    Raises:
        InputError: It holds a job of another kind, or one that does not tell of what it was made.
    """
    try:
        values = json.loads((folder / RUN).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Held()
    except (OSError, ValueError) as error:
        raise InputError(_strange(folder)) from error
    if not isinstance(values, dict) or values.get("job") != JOB or values.get("format") != FORMAT:
        raise InputError(_strange(folder))
    return Held(values, _contents(folder), _names(folder), rows_by_key(folder))


def rows_by_key(folder: Path) -> dict[str, Row]:
    """Return what is logged of each image, by its key, without the records of formats, which may be large.

    In their place is where the row lies, as ``kept``.
    """
    found: dict[str, Row] = {}
    for row, place in find_rows(folder):
        row.pop("records", None)
        with contextlib.suppress(KeyError):  # what is no line of this log
            if not row["error"] or found.get(row["image"], row)["error"]:  # of failures the last
                found[row["image"]] = {**row, "kept": place}
    return found


def write_folder(folder: Path, values: Mapping[str, Any], contents: Contents, names: Mapping[str, str]) -> None:
    """Write what makes a job.

    Raises:
        InputError: The folder cannot be written to.
    """
    write_contents(folder / SEEN, [contents])
    _write_lines(folder / INPUTS, ({"image": key, "name": name} for key, name in names.items()))
    write_run(folder, values)


def write_run(folder: Path, values: Mapping[str, Any]) -> None:
    """Write ``run.json``.

    Raises:
        InputError: The folder cannot be written to.
    """
    with atomic_write(folder / RUN) as temporary:
        temporary.write_text(dump({"format": FORMAT, "job": JOB, **values}, indent=1) + "\n", encoding="utf-8")


def write_failed(folder: Path, rows: Iterable[Row]) -> None:
    """Write which images could not be labelled, and why; no file where all could.

    Raises:
        InputError: The folder cannot be written to.
    """
    failed = [{"image": row["image"], "error": row["error"]} for row in rows if row["error"]]
    if failed:
        _write_lines(folder / FAILED, failed)
    else:
        (folder / FAILED).unlink(missing_ok=True)


def refuse_strangers(folder: Path) -> None:
    """Refuse a folder that holds no job, and files of others that one would replace or delete.

    Raises:
        InputError: It does.
    """
    names = [WHOLE, FAILED, PAGE]
    if not (folder / SEEN).exists():  # a job that was killed while it began has these two, and no more
        names.append(INPUTS)
    there = [*(folder / name for name in names), *sorted((folder / PARTS).glob("*.jsonl"))]
    if found := next((path for path in there if path.exists()), None):
        raise InputError(f"'{found}' is of no labelling job and would be replaced or deleted; choose another --output")


def clear(folder: Path, written: Sequence[Path]) -> None:
    """Delete what a job wrote; what else is there stays.

    Args:
        folder: Of the job.
        written: Files of results.

    Raises:
        InputError: A file cannot be deleted.
    """
    files = [*written, *(folder / name for name in (FAILED, WHOLE, INPUTS, SEEN))]
    try:
        for path in (*files, folder / RUN):  # that one last: a half of a job is still known as one
            path.unlink(missing_ok=True)
        drop_parts(folder)
    except OSError as error:
        raise InputError(f"cannot delete '{path}' ({error.strerror or error}); choose another --output") from error
    for place in sorted({parent for path in files for parent in _parents(path, folder)}, reverse=True):
        with contextlib.suppress(OSError):  # it holds files of others
            place.rmdir()


def sweep(folder: Path) -> None:
    """Delete the temporary files that a kill left behind."""
    for path in folder.rglob(".*.tmp*"):
        if _LEFT_BEHIND.match(path.name):
            path.unlink(missing_ok=True)


def _parents(path: Path, folder: Path) -> list[Path]:
    return [parent for parent in path.parents if folder in parent.parents]


def _strange(folder: Path) -> str:
    return f"'{folder / RUN}' is not of a labelling job of this version; choose another --output, or move it away"


def _write_lines(path: Path, rows: Iterable[Row]) -> None:
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(dump(row) + "\n" for row in rows)


def _contents(folder: Path) -> Contents | None:
    with contextlib.suppress(InputError, IndexError):
        return read_contents(folder / SEEN)[0]
    return None


def _names(folder: Path) -> dict[str, str]:
    found = {}
    with contextlib.suppress(OSError):
        for line in (folder / INPUTS).read_text(encoding="utf-8").split("\n"):
            if line:
                row = json.loads(line)
                found[row["image"]] = row["name"]
    return found
