"""What makes the numbers of a run is compared before any work: no numbers of two makings meet in one folder.

That is what was asked for and what it came to (hash of the weights, settings, texts, background, measures and their
version, seeds, device and precision, version of ovseg), kept in ``run.json``, and what the files are by content, in
``data.jsonl``. Names and paths are in none of it: a model or data set in another place is the same. Images without
numbers may change, so that what failed can be mended. Versions of other packages refuse nothing; where images of one
run were made by different ones, the result says so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from ovseg.data.contents import Contents, contents_of, differences, write_contents
from ovseg.errors import InputError, one_of
from ovseg.evaluation.runs.adopt import adopt, check_adoptable
from ovseg.evaluation.runs.folder import DATA, NOTHING, Kept, check_ways, clear, read_kept, write_kept
from ovseg.evaluation.runs.job import Models, Opened, Report
from ovseg.evaluation.runs.saved import SavedSource
from ovseg.evaluation.runs.sources import Source
from ovseg.jobs.identity import SAID, made_by, refuse
from ovseg.system.values import changes

RESUME, FRESH, ADOPT = "resume", "fresh", "adopt"
"""How a folder that holds a run is begun with: gone on with if all is equal; emptied of what the run wrote; or, where
an earlier version did not keep what made it, gone on with if all is equal that can be compared."""
LOOKED_AT = "images looked at: their files are known by content"
"""What a `Report` counts before and after the work."""


@dataclasses.dataclass(frozen=True, eq=False)
class _Claim:
    """A job on its way: what its folder holds, and what it would be made of now."""

    opened: Opened
    held: Kept
    data: Contents
    source: Source | None = None
    predictions: tuple[Contents, ...] = ()

    @property
    def contents(self) -> list[Contents]:
        return [self.data, *self.predictions]

    @property
    def identity(self) -> dict[str, Any]:
        return {**self.opened.request(), **self.opened.made_by}


def claim(opened: Sequence[Opened], begin: str, models: Models, report: Report) -> list[Opened]:
    """Make sure that what the folders hold was made by what is asked for now, and write that down where it is new.

    Data are compared first, then models are loaded; nothing is written or deleted before all is compared.

    Args:
        opened: The jobs.
        begin: `RESUME`, `FRESH` or `ADOPT`.
        models: Load what gives the labels.
        report: Told how many images were looked at.

    Returns:
        The jobs with `Opened.made_by`.

    Raises:
        InputError: A folder holds something else; the line says what differs, and what to do. Or as `check_ways`.
        OvsegError: As `Models.source`.
    """
    one_of("begin", begin, (RESUME, FRESH, ADOPT))
    kept = [NOTHING if begin == FRESH else read_kept(one.job.folder) for one in opened]
    _refuse_unknown(opened, kept, begin)
    for job in opened:
        check_ways(job)
    claims = _look(opened, kept, report)
    for one in claims:
        if one.held.identity:
            asked = one.opened.request()
            was = {key: value for key, value in one.held.identity.items() if key in asked}
            _refuse(one, [*changes(was, asked), *_changed(one.held.contents[:1], [one.data], one.held)])
    claims = [_with_source(one, models.source(one.opened)) for one in claims]
    for one in claims:
        if one.held.identity:
            changed = changes(one.held.identity, one.identity)
            _refuse(one, [*changed, *_changed(one.held.contents, one.contents, one.held)])
        elif not one.held.empty:
            _refuse(one, check_adoptable(one.opened, one.held, one.identity))
    for one in claims:
        folder, adopted = one.opened.job.folder, one.held.adopted
        if begin == FRESH:
            clear(folder)
        elif not (one.held.empty or one.held.identity):
            adopted = adopt(one.opened, one.held, one.source)
        write_kept(one.opened, one.identity, one.contents, adopted)
    return [one.opened for one in claims]


def _refuse_unknown(opened: Sequence[Opened], kept: Sequence[Kept], begin: str) -> None:
    """Refuse runs that do not say what made them, unless they are to be taken over and can be."""
    for one, held in zip(opened, kept, strict=True):
        # Saved predictions are quickly evaluated again, and there is nothing to compare them with.
        can = held.adoptable and not one.job.plan.predictions
        if not (held.empty or held.identity) and not (can and begin == ADOPT):
            earlier = " (one of an earlier version?)" if held.adoptable else ""
            take_over = "take it over with --adopt, which compares what can be compared, " if can else ""
            raise InputError(
                f"'{one.job.folder}' holds a run that does not say what made its numbers{earlier}; {take_over}start "
                "anew with --fresh, or choose another --output"
            )


def check_unchanged(opened: Sequence[Opened], report: Report) -> None:
    """Make sure that the data are still what they were when the work began, and keep the times of their files.

    Args:
        opened: The jobs, with their work done.
        report: Told how many images were looked at.

    Raises:
        InputError: An image that was measured, its ground truth or its prediction is another by now.
    """
    for one in _look(opened, [read_kept(one.job.folder) for one in opened], report):
        if one.opened.job.plan.predictions:
            one = _with_source(one, Models().source(one.opened))
        if changed := _changed(one.held.contents, one.contents, one.held):
            raise InputError(
                f"data changed while '{one.opened.job.folder}' was evaluated ({'; '.join(changed[:SAID])}), so that "
                "its numbers are of both; start anew with --fresh"
            )
        write_contents(one.opened.job.folder / DATA, one.contents)


def _look(opened: Sequence[Opened], kept: Sequence[Kept], report: Report) -> list[_Claim]:
    """Look at the data sets, each once."""
    found: dict[int, Contents] = {}
    for one in opened:
        if id(one.dataset) not in found:
            same = (held for other, held in zip(opened, kept, strict=True) if other.dataset is one.dataset)
            known = next((held.contents[0] for held in same if held.contents), None)
            found[id(one.dataset)] = contents_of(one.dataset, known, lambda done, of: report(done, of, LOOKED_AT))
    return [_Claim(one, held, found[id(one.dataset)]) for one, held in zip(opened, kept, strict=True)]


def _with_source(one: _Claim, source: Source) -> _Claim:
    opened = dataclasses.replace(one.opened, made_by=made_by(source.description))
    predictions: tuple[Contents, ...] = ()
    if isinstance(source, SavedSource):
        known = one.held.contents[1] if len(one.held.contents) > 1 else None
        predictions = (source.contents(opened.evaluated, known),)
    return dataclasses.replace(one, opened=opened, source=source, predictions=predictions)


def _changed(before: Sequence[Contents], now: Sequence[Contents], held: Kept) -> list[str]:
    if len(before) != len(now):
        return ["a model on one side, saved predictions on the other"]
    pairs = zip(before, now, strict=True)
    return [line for was, is_ in pairs for line in differences(was, is_, held.measured)]


def _refuse(one: _Claim, changed: Sequence[str]) -> None:
    refuse(one.opened.job.folder, "numbers", changed)
