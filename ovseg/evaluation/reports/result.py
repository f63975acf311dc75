"""``result.json`` and ``per_class.csv``: every number with its rule, and all that made it."""

from __future__ import annotations

import csv
import io
import json
import statistics
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from ovseg.data.dataset import INSTANCE, PANOPTIC, SEMANTIC, Dataset
from ovseg.errors import InputError
from ovseg.evaluation.metrics.common import mean
from ovseg.evaluation.reports import advice
from ovseg.evaluation.reports.rules import IMAGE_RULES, counting, rules
from ovseg.evaluation.runs.folder import PER_CLASS, RESULT, read_kept
from ovseg.evaluation.runs.measures import CALIBRATION, VERSION
from ovseg.evaluation.runs.run import Run
from ovseg.system.files import atomic_write
from ovseg.system.values import dump, plain, short_hash

FORMAT = 2


def summarise(run: Run) -> tuple[dict[str, Any], dict[str, Any]]:
    """Sum up a run.

    Returns:
        What goes into ``result.json`` and, for each task, what its evaluator gives.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # classes that occur nowhere are divided by 0 and become None
        results = run.measures.results(run.log.good)
    dataset, plan, source = run.dataset, run.plan, run.log.source
    summary = {
        "format": FORMAT,
        "model": {key: source.get(key) for key in ("model", "weights_hash", "settings", "notes")},
        "dataset": _dataset(run),
        "vocabulary": {
            "hash": dataset.classes.hash,
            "given": plan.vocabulary or "the data set's own",
            "classes": len(dataset.classes),
            "names": dataset.classes.names,
            "asked": source.get("asked"),
        },
        "templates": source.get("templates"),
        "background": source.get("background"),
        "no_class_as": source.get("no_class_as"),
        "protocol": plan.protocol or "the model's own",
        "distractors": plan.distractors,
        "device": source.get("device"),
        "precision": source.get("dtype"),
        "seed": plan.seed,
        "versions": source.get("versions", {}),
        "measures": VERSION,
        "counts": _counts(run, results),
        "metrics": {task: _numbers(result) for task, result in results.items()} | {"image": _image_means(run)},
        "counting": {task: counting(run.measures.evaluators[task]) for task in results},
        "notes": advice.notes(run),
        "warnings": [*advice.before(plan, dataset, run.total), *advice.after(dataset, run.log, results)],
        "failed": [{"image": r.name, "error": r.error} for r in run.log.ordered if r.error],
        "timing": _timing(run),
    }
    return plain(summary), results


def write_result(folder: Path, summary: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Write ``result.json`` and ``per_class.csv``.

    Raises:
        InputError: The place cannot be written to.
    """
    with atomic_write(folder / RESULT) as temporary:
        temporary.write_text(dump(summary, indent=1) + "\n", encoding="utf-8")
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with atomic_write(folder / PER_CLASS) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")


def read_result(folder: Path) -> dict[str, Any]:
    """Read ``result.json``.

    Raises:
        InputError: There is none, or of another version.
    """
    try:
        found = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        fits = found["format"] == FORMAT
        whole = not fits or {"model", "dataset", "vocabulary", "metrics", "timing"} <= set(found)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"'{folder}' holds no {RESULT}; expected a folder that `ovseg eval` has finished") from error
    if not whole:
        raise InputError(
            f"'{folder / RESULT}' is not whole; run ovseg eval again, which writes it from what it measured"
        )
    if not fits:
        raise InputError(
            f"'{folder}' was written in format {found['format']}; expected {FORMAT}, run ovseg eval again with --adopt"
        )
    result: dict[str, Any] = found
    return result


def per_class(dataset: Dataset, results: dict[str, Any], novel: list[bool] | None) -> list[dict[str, Any]]:
    """Return a row for each class: its flags, pixels and numbers; None where there is nothing to measure."""
    rows: list[dict[str, Any]] = []
    columns = _columns(results)
    for i, entry in enumerate(dataset.classes):
        row: dict[str, Any] = {"id": i, "name": entry.name, "kind": "thing" if entry.is_thing else "stuff"}
        if novel is not None:
            row["split"] = "novel" if novel[i] else "base"
        rows.append(row | {name: _cell(values[i]) for name, values in columns.items()})
    return rows


def value(summary: dict[str, Any], task: str, name: str) -> Any:
    """Return a number of ``result.json``; None where it was not measured."""
    return summary["metrics"].get(task, {}).get(name, {}).get("value")


def _columns(results: dict[str, Any]) -> dict[str, np.ndarray]:
    columns: dict[str, np.ndarray] = {}
    if found := results.get(SEMANTIC):
        columns |= {"truth_pixels": found.truth_pixels, "predicted_pixels": found.predicted_pixels}
        columns |= {"iou": found.iou, "accuracy": found.accuracy}
        if np.isfinite(found.boundary_iou).any():
            columns["boundary_iou"] = found.boundary_iou
    if found := results.get(PANOPTIC):
        columns |= {"pq": found.pq, "sq": found.sq, "rq": found.rq}
    if found := results.get(INSTANCE):
        columns["ap"] = found.class_ap
    return columns


def _cell(number: Any) -> Any:
    if isinstance(number, np.integer):
        return int(number)
    return round(float(number), 6) if np.isfinite(number) else None


def _numbers(result: Any) -> dict[str, dict[str, Any]]:
    sentences = rules(result)
    return {name: {"value": number, "rule": sentences[name]} for name, number in result.to_json().items()}


def _image_means(run: Run) -> dict[str, dict[str, Any]]:
    """Return means over images of the numbers of single images."""
    found = {}
    for name, rule in IMAGE_RULES.items():
        values = [r.scores[name] for r in run.log.good if r.scores.get(name) is not None]
        if values:
            found[name] = {"value": round(mean(np.array(values, np.float64)), 6), "rule": rule}
    return found


def _dataset(run: Run) -> dict[str, Any]:
    """Return what was evaluated: hashes of the images and of the ground truth with their names, by content."""
    every = read_kept(run.folder).contents
    images = {name: one.image.hash for name, one in every[0].images.items()}
    labels = {name: [one.record, *(file.hash for file in one.truth)] for name, one in every[0].images.items()}
    found = {"name": run.plan.dataset, "kind": run.dataset.kind, "limit": run.plan.limit, "images": run.total}
    hashes = {"images_hash": short_hash(dump(images)), "labels_hash": short_hash(dump(labels))}
    for one in every[1:]:
        hashes["predictions_hash"] = short_hash(dump({name: file.image.hash for name, file in one.images.items()}))
    return found | hashes


def _counts(run: Run, results: dict[str, Any]) -> dict[str, Any]:
    counts = {
        "images": len(run.log.images),
        "evaluated": len(run.log.good),
        "failed": len(run.log.images) - len(run.log.good),
        "classes_all": len(run.dataset.classes),
    }
    if SEMANTIC in results:
        counts["classes_present"] = results[SEMANTIC].present
    return counts


def _timing(run: Run) -> dict[str, Any]:
    """Return what is not the same in two runs."""
    seconds = [record.seconds for record in run.log.good] or [0.0]
    return {
        "seconds_per_image": round(statistics.median(seconds), 6),
        "seconds_mean": round(statistics.fmean(seconds), 6),
        "peak_memory_mib": round(max((record.peak for record in run.log.good), default=0) / 2**20, 1),
        "rule": "Median and mean over images of the model's time: reading the image and making its labels, without "
        "ground truth and metrics. Peak memory is the largest of one process: of the accelerator, or resident memory.",
    }


def calibration_curve(results: dict[str, Any]) -> list[tuple[float, float, int]]:
    """Return mean score, share of right pixels and pixels of each bin that has some."""
    found = results.get(CALIBRATION)
    if found is None:
        return []
    rows = zip(found.confidence.tolist(), found.accuracy.tolist(), found.pixels.tolist(), strict=True)
    return [row for row in rows if row[2]]
