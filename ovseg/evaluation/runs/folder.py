"""What the folder of a run holds besides its numbers: what was asked for, and what made it."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovseg.data.contents import Contents, read_contents, write_contents
from ovseg.errors import InputError
from ovseg.evaluation.runs.image_log import Log, read_log
from ovseg.evaluation.runs.job import LABELS, Opened
from ovseg.evaluation.runs.plan import PLAN, read_plan
from ovseg.evaluation.runs.saved import CLASS_LISTS
from ovseg.jobs.rows import PARTS, WHOLE
from ovseg.system.files import atomic_write
from ovseg.system.paths import relative_names
from ovseg.system.values import dump

FORMAT = 2
DATA = "data.jsonl"
"""What the data set and saved predictions are by content."""
RESULT, PER_CLASS, REPORT = "result.json", "per_class.csv", "report.html"


@dataclass(frozen=True, eq=False)
class Kept:
    """What a folder holds of a run.

    Attributes:
        values: Of ``run.json``; empty if there is none that tells what was asked for.
        contents: Of ``data.jsonl``: the data set and, if there are any, saved predictions; empty likewise.
        log: What was measured.
    """

    values: dict[str, Any]
    contents: list[Contents]
    log: Log

    @property
    def empty(self) -> bool:
        """Whether there is no run."""
        return not (self.values or self.log.sources or self.log.images)

    @property
    def identity(self) -> dict[str, Any]:
        """What made it; empty where that is not known in full."""
        return dict(self.values.get("identity", {})) if self.contents else {}

    @property
    def adoptable(self) -> bool:
        """Whether it tells enough of what made it that it can be compared: what was asked for, and with which model."""
        return bool(self.values) and bool(self.log.sources or not self.log.images)

    @property
    def adopted(self) -> list[str]:
        """What could not be compared when it was taken over."""
        return list(self.values.get("adopted", []))

    @property
    def old_names(self) -> list[str]:
        """File names of the images, as earlier versions kept them."""
        found = self.values.get("images", [])
        return [str(name) for name in found] if isinstance(found, list) else []

    @property
    def measured(self) -> set[str]:
        """Names of the images that have numbers."""
        return {record.name for record in self.log.good}


NOTHING = Kept({}, [], Log())


def read_kept(folder: Path) -> Kept:
    """Read what a folder holds of a run.

    Raises:
        InputError: As `read_log`.
    """
    return Kept(_values(folder), _contents(folder), read_log(folder))


def write_kept(opened: Opened, identity: dict[str, Any], contents: Sequence[Contents], adopted: list[str]) -> None:
    """Write what makes a run, and the classes that its labels count in.

    Raises:
        InputError: The folder cannot be written to.
    """
    folder = opened.job.folder
    whole = {"format": FORMAT, "request": opened.job.plan.to_json(), "identity": identity}
    if adopted:
        whole["adopted"] = adopted
    write_contents(folder / DATA, contents)
    classes = dump(opened.dataset.classes.to_json(), indent=1)
    for path, text in ((folder / LABELS / CLASS_LISTS[0], classes), (folder / PLAN, dump(whole, indent=1))):
        with atomic_write(path) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")


def clear(folder: Path) -> None:
    """Delete what a run wrote into its folder; what else is there stays, and so do runs in folders below.

    Raises:
        InputError: A file cannot be deleted.
    """
    labels = written_labels(folder)
    if not labels:
        return
    files = [folder / name for name in (RESULT, PER_CLASS, REPORT, WHOLE, DATA)]
    files += [folder / LABELS / name for name in labels] + [*(folder / PARTS).glob("*.jsonl")]
    try:
        for path in (*files, folder / PLAN):  # that one last: a half of a run is still known as one
            path.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"cannot delete '{path}' ({error.strerror or error}); choose another --output") from error
    for place in sorted((folder / LABELS).rglob("*"), reverse=True):
        with contextlib.suppress(OSError):  # a file, or a folder that holds those of others
            place.rmdir()


def written_labels(folder: Path) -> set[str]:
    """Return what a run wrote, or was about to write, below the folder of labels; nothing where there is no run."""
    log = Log()
    with contextlib.suppress(InputError):  # of several makings
        log = read_log(folder)
    held = Kept(_values(folder), _contents(folder), log)
    if held.empty and not (folder / PLAN).is_file() and not (folder / PARTS).is_dir():
        return set()
    old = [Path(name).stem for name in (*held.old_names, *(record.name for record in log.images.values()))]
    stems = {*relative_names([name for one in held.contents for name in one.images], "."), *old}
    records = {record.labels for record in log.images.values() if record.labels}
    return {f"{stem}.png" for stem in stems} | records | {CLASS_LISTS[0]}


def check_ways(opened: Opened) -> None:
    """Make sure that no file is written over which a run in the folder has not written.

    Raises:
        InputError: There is one; or the predictions that are evaluated are the labels of the folder.
    """
    folder, predictions = opened.job.folder / LABELS, opened.job.plan.predictions
    if predictions and Path(os.path.expanduser(predictions)).resolve() == folder.resolve():
        raise InputError(f"--predictions '{predictions}' would be written over; choose another --output")
    own = written_labels(opened.job.folder)
    for name in (CLASS_LISTS[0], *opened.label_files):
        if name not in own and (folder / name).exists():
            raise InputError(
                f"'{folder / name}' is of no run, and would be written over; move it, or choose another --output"
            )


def _values(folder: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError, InputError):
        read_plan(folder)
        values: dict[str, Any] = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        if isinstance(values.get("identity", {}), dict) and isinstance(values.get("adopted", []), list):
            return values
    return {}


def _contents(folder: Path) -> list[Contents]:
    with contextlib.suppress(InputError):
        return read_contents(folder / DATA)
    return []
