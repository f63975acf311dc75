"""From finished runs to the files that people read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ovseg.evaluation.reports.report import write_report
from ovseg.evaluation.reports.result import per_class, summarise, write_result
from ovseg.evaluation.robustness import summarise as compare_conditions
from ovseg.evaluation.runs.run import Run


def finish(runs: Sequence[Run]) -> dict[str, Any]:
    """Write ``result.json``, ``per_class.csv`` and ``report.html`` of a clean run and of those under conditions.

    Args:
        runs: The clean one first; the others are of the same plan but for their condition.

    Returns:
        What is in ``result.json`` of the clean run.

    Raises:
        InputError: A place cannot be written to.
    """
    scores = []
    for run in runs[1:]:
        summary, results = summarise(run)
        write_result(run.folder, summary, _rows(run, results))
        scores.append((run.plan.condition, _numbers(summary)))
    summary, results = summarise(runs[0])
    summary["conditions"] = [condition.key for condition, _ in scores]
    if scores:
        summary["robustness"] = compare_conditions([(runs[0].plan.condition, _numbers(summary)), *scores])
        summary["failed"] += [
            {"image": f"{r.name} ({run.plan.condition.key})", "error": r.error}
            for run in runs[1:]
            for r in run.log.ordered
            if r.error
        ]
    rows = _rows(runs[0], results)
    write_result(runs[0].folder, summary, rows)
    write_report(runs[0], summary, results, rows)
    return summary


def _rows(run: Run, results: dict[str, Any]) -> list[dict[str, Any]]:
    return per_class(run.dataset, results, run.plan.novel_flags(run.dataset.classes))


def _numbers(summary: dict[str, Any]) -> dict[str, float | None]:
    """Return the shares among the numbers of a result, by name."""
    tasks = [task for task in summary["metrics"] if task not in ("image", "calibration")]
    found = [item for task in tasks for item in summary["metrics"][task].items()]
    return {name: entry["value"] for name, entry in found if not isinstance(entry["value"], int)}
