"""``report.html``: one file that says all there is to say about a run."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from ovseg.data.dataset import SEMANTIC
from ovseg.evaluation.metrics.common import mean
from ovseg.evaluation.reports import page
from ovseg.evaluation.reports.charts import bars, curve, heat
from ovseg.evaluation.reports.page import percent
from ovseg.evaluation.reports.pictures import gallery, ranked
from ovseg.evaluation.reports.result import calibration_curve, value
from ovseg.evaluation.runs.folder import REPORT
from ovseg.evaluation.runs.run import Run
from ovseg.system.files import atomic_write

HEAT_CLASSES = 24
"""Classes that the heat map has room for; of more, those with the largest confusions."""
PICTURES = 6

TILES = (
    (SEMANTIC, "miou_present", "mIoU, {present} present classes"),
    (SEMANTIC, "miou_all", "mIoU, all {all} classes"),
    (SEMANTIC, "pixel_accuracy", "pixel accuracy"),
    (SEMANTIC, "frequency_weighted_iou", "fwIoU"),
    (SEMANTIC, "boundary_miou", "boundary IoU"),
    ("panoptic", "pq", "PQ"),
    ("instance", "ap", "AP"),
    ("prompt", "miou", "mIoU of prompts"),
    ("prompt", "best_miou", "mIoU, best threshold"),
    ("prompt", "foreground_iou", "FgIoU"),
    ("prompt", "ap", "AP of pixels"),
    ("referring", "overall_iou", "oIoU"),
    ("referring", "precision_50", "P@0.5"),
    ("calibration", "expected_calibration_error", "calibration error"),
)


def write_report(run: Run, summary: dict[str, Any], results: dict[str, Any], rows: list[dict[str, Any]]) -> Path:
    """Write the report of a run into its folder.

    Args:
        run: A finished run.
        summary: Of `ovseg.evaluation.reports.result.summarise`, perhaps with ``robustness``.
        results: Likewise.
        rows: Of `ovseg.evaluation.reports.result.per_class`.

    Raises:
        InputError: The place cannot be written to.
    """
    name = f"{summary['model']['model']} on {summary['dataset']['name']}"
    best, worst = ranked(run.log.good, PICTURES)
    below = "Mean IoU of the classes that the image shows. Mistakes: orange; grey is right, white has no ground truth."
    parts = [
        f'<h1>{escape(name)}</h1><p class="sub">{escape(_subtitle(summary))}</p>',
        _tiles(summary),
        page.box("Before you compare these numbers", summary["warnings"]),
        page.box("Notes", summary["notes"]),
        page.box("Images that could not be evaluated", _failed(summary), "warn fail"),
        page.section(
            "Groups of classes", _groups(rows), "Mean IoU over the present classes of each group, in percent."
        ),
        page.section("Robustness", robustness_table(summary.get("robustness"))),
        page.section("Classes", _classes(rows), "In percent; a click on a head sorts. '-': not in the ground truth."),
        _confusions(run, results),
        page.section("Calibration", curve(calibration_curve(results)), _calibration_note(summary)),
        page.section("Best images", gallery(run.folder, run.dataset, best), below),
        page.section("Worst images", gallery(run.folder, run.dataset, worst), below),
        page.section("All numbers and their rules", _numbers(summary)),
        page.section("What made them", _settings(summary)),
    ]
    path = run.folder / REPORT
    with atomic_write(path) as temporary:
        temporary.write_text(page.page(name, "\n".join(filter(None, parts))), encoding="utf-8")
    return path


def _subtitle(summary: dict[str, Any]) -> str:
    counts, timing = summary["counts"], summary["timing"]
    asked = (
        "all classes at once" if summary["distractors"] is None else f"own classes and {summary['distractors']} others"
    )
    return (
        f"{counts['evaluated']} of {counts['images']} images, {asked}; protocol {summary['protocol']}, background "
        f"{summary['background'] or 'as saved'}, {1000 * timing['seconds_per_image']:,.0f} ms an image on "
        f"{summary['device'] or 'files'}, ovseg {summary['versions'].get('ovseg', '')}"
    )


def _tiles(summary: dict[str, Any]) -> str:
    counts = summary["counts"]
    names = {"present": counts.get("classes_present", 0), "all": counts["classes_all"]}
    found = [(text.format(**names), value(summary, task, name)) for task, name, text in TILES]
    return page.tiles([(text, percent(number)) for text, number in found if number is not None])


def _failed(summary: dict[str, Any]) -> list[str]:
    lines = [f"{one['image']}: {one['error']}" for one in summary["failed"][:40]]
    rest = len(summary["failed"]) - len(lines)
    return [*lines, f"and {rest} more, in result.json"] if rest else lines


def _groups(rows: list[dict[str, Any]]) -> str:
    """Draw bars of things and stuff, base and novel; nothing where there is one group only."""
    if "iou" not in rows[0]:
        return ""
    shown = [row for row in rows if row["truth_pixels"]]
    names = [("kind", "thing"), ("kind", "stuff"), ("split", "base"), ("split", "novel")]
    groups = [(name, [row["iou"] for row in shown if row.get(key) == name]) for key, name in names]
    filled = [(name, mean(np.array(values)), len(values)) for name, values in groups if values]
    return bars([(name, iou, f"{percent(iou)}  ({count} classes)") for name, iou, count in filled]) if filled else ""


def _classes(rows: list[dict[str, Any]]) -> str:
    heads = list(rows[0])
    shares = [i for i, head in enumerate(heads) if head in ("iou", "pq", "ap")]
    if not shares:  # prompts: there are as many as classes
        return ""
    ordered = sorted(rows, key=lambda row: -row.get("truth_pixels", 0))
    return page.table([h.replace("_", " ") for h in heads], [list(row.values()) for row in ordered], "classes", shares)


def _confusions(run: Run, results: dict[str, Any]) -> str:
    """Draw the confusion matrix, or the part of it with the largest confusions."""
    if SEMANTIC not in results:
        return ""
    names = [*run.dataset.classes.names, "no class"]
    confusion = run.measures.evaluators[SEMANTIC].confusion
    if not confusion.any():  # all labels are void
        return ""
    rows, columns = _worth_showing(confusion)
    totals = np.maximum(confusion.sum(1, keepdims=True), 1)
    picture = heat((confusion / totals)[np.ix_(rows, columns)], [names[i] for i in rows], [names[i] for i in columns])
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:30]
    pairs = [divmod(int(place), wrong.shape[1]) for place in order if wrong.flat[place]]
    table = page.table(
        ["ground truth", "taken for", "pixels", "of the class, %"],
        [[names[i], names[j], int(wrong[i, j]), float(wrong[i, j] / totals[i, 0])] for i, j in pairs],
    )
    every = len(rows) == int((confusion.sum(1) > 0).sum())
    what = "All classes of the ground truth" if every else f"The {len(rows)} classes with the largest confusions"
    return page.section(
        "Confusions",
        f'<div class="row"><div>{picture}</div></div><h3>Largest confusions</h3>{table}',
        f"{what}: a row says what its pixels were taken for. Blue is right, orange wrong; the deeper the more.",
    )


def _worth_showing(confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and columns for the heat map: all present classes, or those with the most wrong pixels."""
    count = len(confusion)
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    rows = np.flatnonzero(confusion.sum(1))
    if len(rows) > HEAT_CLASSES:
        rows = np.sort(rows[np.argsort(-wrong[rows].sum(1), kind="stable")[:HEAT_CLASSES]])
    taken = wrong[rows].sum(0)
    others = np.setdiff1d(np.flatnonzero(taken), [*rows, count])
    others = np.sort(others[np.argsort(-taken[others], kind="stable")[: max(0, HEAT_CLASSES + 8 - len(rows))]])
    return rows, np.concatenate([rows, others, [count] if taken[count] else []]).astype(np.int64)


def _calibration_note(summary: dict[str, Any]) -> str:
    error = value(summary, "calibration", "expected_calibration_error")
    return (
        "Of the pixels with a score, how many are right: on the dashed line scores can be taken at their word. "
        f"Expected calibration error {percent(error)} %. Larger dots are more pixels."
    )


def _numbers(summary: dict[str, Any]) -> str:
    rows = [
        [task, name, _shown(entry["value"]), entry["rule"]]
        for task, numbers in summary["metrics"].items()
        for name, entry in numbers.items()
    ]
    counting = [f"<p><b>{escape(task)}.</b> {escape(text)}</p>" for task, text in summary["counting"].items()]
    return page.table(["task", "number", "value", "rule"], rows, sortable=False) + "".join(counting)


def _shown(number: Any) -> str:
    if number is None:
        return "-"
    return f"{100 * number:.2f} %" if isinstance(number, float) else f"{number:,}"


def _settings(summary: dict[str, Any]) -> str:
    left = ("metrics", "counting", "warnings", "failed", "robustness", "vocabulary")
    kept = {name: part for name, part in summary.items() if name not in left}
    words = {name: part for name, part in summary["vocabulary"].items() if name != "names"}
    text = json.dumps({**kept, "vocabulary": words}, indent=1, ensure_ascii=False)
    names = ", ".join(summary["vocabulary"]["names"])
    return (
        f"<details open><summary>settings, versions, time and memory</summary><pre>{escape(text)}</pre></details>"
        f"<details><summary>vocabulary</summary><p>{escape(names)}</p></details>"
    )


def robustness_table(found: dict[str, Any] | None) -> str:
    """Return the mean and drop of each family, and every condition; nothing where none was tested."""
    if not found:
        return ""
    names = {"miou_present": "mIoU, present", "pixel_accuracy": "pixel accuracy", "pq": "PQ", "ap": "AP"}
    names |= {"miou": "mIoU of prompts", "overall_iou": "oIoU"}
    keys = [key for key in names if found["clean"].get(key) is not None]
    heads = [text for key in keys for text in (names[key], "lost")]

    def cells(numbers: dict[str, Any], drop: dict[str, Any]) -> list[Any]:
        return [part[key] for key in keys for part in (numbers, drop)]

    nothing = dict.fromkeys(keys)
    rows: list[list[Any]] = [["clean", *cells(found["clean"], nothing)]]
    rows += [[f"{name}: mean", *cells(one["mean"], one["drop"])] for name, one in found["families"].items()]
    single = [[one["key"], *cells(one["numbers"], one["drop"])] for one in found["conditions"]]
    means = page.table(["family", *heads], rows, sortable=False)
    return f"{means}<h3>Conditions</h3>{page.table(['condition', *heads], single)}"
