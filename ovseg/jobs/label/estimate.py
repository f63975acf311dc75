"""What a job would do, how long it would take and how large it would be, from a few of its images."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from ovseg.jobs.label.folder import rows_by_key
from ovseg.jobs.label.here import Here
from ovseg.jobs.label.labeller import Labeller
from ovseg.jobs.label.plan import LabelPlan
from ovseg.jobs.label.run import Report, open_job
from ovseg.jobs.review.page import write_page
from ovseg.jobs.rows import appending
from ovseg.system.device import device_of_process

TRIED = 3
"""So many images are labelled, from all over the inputs, after one that only warms up."""


@dataclass(frozen=True)
class Estimate:
    """What would be done.

    Attributes:
        images: Of the inputs.
        done: Images that were labelled before, by the same words and options.
        missing: Images that would be labelled.
        tried: Images that were labelled for this; where all failed nothing more is known.
        seconds: For all that would be labelled, with one process.
        bytes: Of all that would be written.
        notes: What is left out.
        problems: Why images could not be labelled.
    """

    images: int
    done: int
    missing: int
    tried: int
    seconds: float
    bytes: int
    notes: list[str]
    problems: list[str]


def estimate(
    plan: LabelPlan, folder: Path, report: Report, fresh: bool = False, retry: bool = False, limit: int | None = None
) -> Estimate:
    """Label a few images into a folder that is deleted again; nothing is written to that of the job.

    Arguments and what is raised are those of `ovseg.jobs.label.run.label`.
    """
    opened = open_job(plan, folder, report, fresh)
    if fresh:
        opened.held.rows.clear()
    missing = opened.missing(retry, limit, Here().exists)
    readable = [item for item in missing if not item.problem]
    places = [len(readable) * number // TRIED for number in range(min(TRIED, len(readable)))]
    tried = [readable[place] for place in dict.fromkeys(places)]
    done = len(opened.items[:limit]) - len(missing)
    problems = [item.problem for item in missing if item.problem]
    if not tried:
        return Estimate(len(opened.items), done, len(missing), 0, 0.0, 0, opened.notes, problems)
    segmenter = plan.load(device_of_process(plan.device, 0))
    words = plan.words(segmenter)
    with tempfile.TemporaryDirectory() as work:
        place = Path(work)
        labeller = Labeller(plan, place, segmenter, words)
        list(labeller.rows(tried[:1]))
        start = time.perf_counter()
        rows = list(labeller.rows(tried))
        seconds = time.perf_counter() - start
        with appending(place, "0") as append:
            for row in rows:
                append(row)
        good = [row for row in rows_by_key(place).values() if not row["error"]]
        labeller.exports.finish(good, plan.classes)
        write_page(place, plan.classes, good, plan.model)
        fixed = sum(path.stat().st_size for path in (place / "review").glob("*.*") if path.name != "data-0000.js")
        size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file()) - fixed
    share = len(readable) / len(tried)
    problems += [row["error"] for row in rows if row["error"]]
    whole = round(fixed + size * share)
    return Estimate(len(opened.items), done, len(missing), len(tried), seconds * share, whole, opened.notes, problems)
