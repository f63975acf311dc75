"""A labelling job: claimed, shared out, logged, resumed; and the files that are one for all images, at its end.

Its folder is compared with what is asked for before any work: no labels of two makings meet in it. Images may be added;
those that were labelled stay what they were. When all is done the log is written in the order of the inputs, so that
neither kills nor the number of processes change a byte of what is there but ``run.json``, which has the times.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from ovseg.data.contents import Contents, contents_of_files, differences
from ovseg.errors import InputError
from ovseg.jobs.identity import made_by, refuse, versions
from ovseg.jobs.label import folder as kept
from ovseg.jobs.label.containers import Item
from ovseg.jobs.label.exports import Exports
from ovseg.jobs.label.folder import Held
from ovseg.jobs.label.here import Here
from ovseg.jobs.label.inputs import find_items
from ovseg.jobs.label.names import choose_names
from ovseg.jobs.label.plan import LabelPlan
from ovseg.jobs.review.page import write_page
from ovseg.jobs.rows import Row, close_rows
from ovseg.jobs.share import Tell
from ovseg.system.lock import only_here
from ovseg.system.values import changes

Report: TypeAlias = Callable[[int, int, str, int], None]
"""Told how many are done, of how many, of what, and how many of these have failed."""
IMAGES, LOOKED_AT, INPUTS = "images", "inputs looked at: they are known by content", "inputs"


@dataclass(frozen=True, eq=False)
class Opened:
    """A job with what it works on.

    Attributes:
        plan: What was asked for.
        folder: Of the results.
        items: All images with their names.
        held: What the folder holds.
        contents: What the inputs are by content.
        notes: What was left out.
    """

    plan: LabelPlan
    folder: Path
    items: list[Item]
    held: Held
    contents: Contents
    notes: list[str]

    @property
    def exports(self) -> Exports:
        """The formats of the job."""
        return Exports(self.plan.formats, self.plan.options, self.folder)

    def missing(self, retry: bool, limit: int | None, exists: Callable[[Path, str], bool]) -> list[Item]:
        """Return the images to label: those without a row or without a file, and on request those that failed."""
        rows = self.held.rows

        def is_done(item: Item) -> bool:
            row = rows.get(item.key)
            if row is None:
                return False
            if row["error"]:
                return not retry
            return all(exists(self.folder, name) for name in row["files"])

        return [item for item in self.items[:limit] if not is_done(item)]


@dataclass(frozen=True, eq=False)
class Labelled:
    """A job that has ended.

    Attributes:
        folder: Of the results.
        rows: Of the images, in order.
        total: Images of the inputs, those beyond the limit, too.
        before: Images that were done before this call.
        seconds: Of this call, without looking at the inputs and loading the model.
        notes: What was left out.
        files: Those that are one for all images, below the folder.
    """

    folder: Path
    rows: list[Row]
    total: int
    before: int
    seconds: float
    notes: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)

    @property
    def failed(self) -> list[Row]:
        """Rows of images that could not be labelled."""
        return [row for row in self.rows if row["error"]]


class Runner(Protocol):
    """Where the work is done."""

    def describe(self, plan: LabelPlan) -> dict[str, Any]:
        """Return what makes the results there (`ovseg.jobs.identity.describe`).

        Raises:
            OvsegError: The model cannot be loaded, or the words not be used.
        """

    def run(self, plan: LabelPlan, folder: Path, made: Mapping[str, Any], items: Sequence[Item], tell: Tell) -> None:
        """Label images, and log each.

        Args:
            plan: What was asked for.
            folder: Of the results.
            made: What makes them, of `made_by`; where something else was loaded nothing is done.
            items: In order.
            tell: Told of each image whether it has failed.

        Raises:
            OvsegError: The work cannot go on; what was done is in the log.
        """

    def exists(self, folder: Path, name: str) -> bool:
        """Tell whether a result that was written is still there."""


def label(
    plan: LabelPlan,
    folder: Path,
    runner: Runner | None = None,
    report: Report | None = None,
    fresh: bool = False,
    retry: bool = False,
    limit: int | None = None,
) -> Labelled:
    """Label all images that are not labelled yet.

    Args:
        plan: What to do.
        folder: Of the results; one process alone works in it.
        runner: Where the work is done; None for this process.
        report: Told about progress.
        fresh: Delete what an earlier job has written.
        retry: Try images again that have failed.
        limit: Only the first images.

    Raises:
        InputError: The folder holds labels of something else, which the line says, or another process is at work in it,
            or results cannot be written.
        OvsegError: The plan cannot be carried out; images that cannot be labelled are in the log instead.
    """
    tell, runner = report or _silent, runner or Here()
    with only_here(folder):
        opened = open_job(plan, folder, tell, fresh)
        missing = opened.missing(retry, limit, runner.exists)
        made = runner.describe(plan)
        claim(opened, made, missing, fresh)
        start = time.perf_counter()
        tell(0, len(missing), IMAGES, 0)
        with _in_order(opened):
            if missing:
                runner.run(plan, folder, made_by(made), missing, _counter(tell, len(missing)))
        return close(opened, made, len(missing), time.perf_counter() - start, tell)


def open_job(plan: LabelPlan, folder: Path, report: Report, fresh: bool = False) -> Opened:
    """Find the images of a job, and compare them and what is asked for with what the folder holds.

    Raises:
        InputError: It holds labels of something else, or files of others, or there are no images.
        OvsegError: As `LabelPlan.check`.
    """
    plan.check()
    held = kept.read_folder(folder)
    if not held.values:
        kept.refuse_strangers(folder)
    exports, anew = Exports(plan.formats, plan.options, folder), fresh and bool(held.values)
    if not anew:
        exports.check(plan.classes)
    found = find_items(plan.inputs, folder, plan.every)
    known = Held() if fresh else held
    if known.values and known.contents is None:
        raise InputError(f"'{folder}' does not tell of what its labels were made; start anew with --fresh")
    names = choose_names([item.key for item in found.items], known.names, plan.keep_tree)
    items = [dataclasses.replace(item, name=names[item.key]) for item in found.items]
    if anew:
        exports.check(plan.classes, {*_written(folder, held, items)})
    contents = _look(plan, found.files, known.contents, report)
    opened = Opened(plan, folder, items, held, contents, found.notes)
    if known.values:
        changed = changes(_part(known.identity, plan.identity()), plan.identity())
        refuse(folder, "labels", [*changed, *_changed(known.contents, contents, known.rows.values())])
    return opened if not fresh else dataclasses.replace(opened, held=Held(held.values, held.contents, {}, {}))


def claim(opened: Opened, made: Mapping[str, Any], missing: Sequence[Item], fresh: bool) -> None:
    """Compare the model with that of the folder, and write down what makes the results; nothing is deleted before.

    Raises:
        InputError: It is another one, or a file would be replaced that is of others.
    """
    folder, identity = opened.folder, {**opened.plan.identity(), **made_by(dict(made))}
    held = kept.read_folder(folder)
    if held.values and not fresh:
        refuse(folder, "labels", changes(held.identity, identity))
    if fresh and held.values:
        kept.clear(folder, _written(folder, held, opened.items))
    opened.exports.check_places(missing)
    kept.sweep(folder)
    before = {} if fresh else held.values
    values = {**_values(opened, made), "files": before.get("files", []), "timings": before.get("timings", [])}
    kept.write_folder(folder, values, opened.contents, {item.key: item.name for item in opened.items})


def close(opened: Opened, made: Mapping[str, Any], fresh: int, seconds: float, report: Report) -> Labelled:
    """Write what is made of all images, and the log in their order.

    Raises:
        InputError: An input has changed meanwhile, or a file cannot be written.
    """
    folder, rows = opened.folder, kept.rows_by_key(opened.folder)
    files = {item.file: Path(item.path) for item in opened.items}
    now = _look(opened.plan, files, opened.contents, report)
    if changed := _changed(opened.contents, now, rows.values()):
        raise InputError(f"inputs changed while they were labelled ({'; '.join(changed)}); start anew with --fresh")
    ordered = [rows[item.key] for item in opened.items if item.key in rows]
    good = [row for row in ordered if not row["error"]]
    made_of_all = opened.exports.finish(good, opened.plan.classes)
    made_of_all += write_page(folder, opened.plan.classes, ordered, opened.plan.model)
    kept.write_failed(folder, ordered)
    call = {"ended": _now(), "seconds": round(seconds, 3), "images": fresh}
    call["seconds_of_images"] = round(sum(row.get("seconds", 0.0) for row in ordered), 3)
    timings = [*kept.read_folder(folder).values.get("timings", []), call]
    whole = (row["kept"].read() for row in ordered)
    close_rows(folder, ({key: value for key, value in row.items() if key != "seconds"} for row in whole))
    names = [path.relative_to(folder).as_posix() for path in made_of_all]
    kept.write_run(folder, {**_values(opened, made), "files": names, "timings": timings})
    return Labelled(folder, ordered, len(opened.items), len(ordered) - fresh, seconds, opened.notes, names)


def _written(folder: Path, held: Held, items: Iterable[Item]) -> list[Path]:
    """Return all files of a job that are known, and those that it may have been writing when it was killed."""
    exports = Exports(held.identity["formats"], held.identity["options"], folder)
    old = [dataclasses.replace(item, name=held.names.get(item.key, item.name)) for item in items]
    return [*(folder / name for name in held.files), *exports.all_files(old)]


def _silent(_done: int, _total: int, _what: str, _failed: int) -> None:
    pass


def _counter(report: Report, total: int) -> Tell:
    """Return what counts images that are done, and those that failed."""
    done = failed = 0

    def tell(has_failed: bool) -> None:
        nonlocal done, failed
        done, failed = done + 1, failed + has_failed
        report(done, total, IMAGES, failed)

    return tell


@contextlib.contextmanager
def _in_order(opened: Opened) -> Iterator[None]:
    """Keep the list of failures up to date also where the work is interrupted, and leave no temporary files.

    Workers of a cluster may be lost while they write, and the work goes on without them.
    """
    try:
        yield
    except BaseException:
        rows = kept.rows_by_key(opened.folder)
        with contextlib.suppress(InputError):  # such as a full disk, which is being told of
            kept.write_failed(opened.folder, (rows[item.key] for item in opened.items if item.key in rows))
        raise
    finally:
        kept.sweep(opened.folder)


def _look(plan: LabelPlan, files: Mapping[str, Path], known: Contents | None, report: Report) -> Contents:
    """Look at the files of all inputs."""
    paths = {key: [path] if os.path.isfile(path) else [] for key, path in files.items()}  # a pipe may never end
    return contents_of_files("", plan.classes, paths, known, INPUTS, lambda done, of: report(done, of, LOOKED_AT, 0))


def _changed(before: Contents | None, now: Contents, rows: Iterable[Row]) -> list[str]:
    """Say what of the inputs that were labelled is another by now; images that were added change nothing."""
    if before is None:
        return []
    labelled = {row["file"] for row in rows if not row["error"]}
    was = {key: one for key, one in before.images.items() if key in labelled}
    found = {key: now.images[key] for key in was if key in now.images}
    return differences(dataclasses.replace(before, images=was), dataclasses.replace(now, images=found))


def _part(values: Mapping[str, Any], like: Mapping[str, Any]) -> dict[str, Any]:
    return {key: values.get(key) for key in like}


def _values(opened: Opened, made: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``run.json`` says of a job."""
    identity = {**opened.plan.identity(), **made_by(dict(made))}
    return {"request": opened.plan.to_json(), "identity": identity, "made": {**made, "versions": versions()}}


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
