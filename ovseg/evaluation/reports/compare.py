"""Several models on one data set: differences with confidence intervals from the images that all of them have done.

The interval is that of a paired bootstrap: images are drawn with replacement, the same for all models, and the numbers
of the whole data set are computed anew from the sums over the drawn images, as the evaluators do (not as means of
numbers of single images).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ovseg.data.contents import Contents, class_differences, file_differences, read_contents
from ovseg.data.dataset import PANOPTIC, SEMANTIC
from ovseg.errors import ConfigError, InputError
from ovseg.evaluation.metrics.common import UNIT
from ovseg.evaluation.reports.result import read_result
from ovseg.evaluation.runs.folder import DATA
from ovseg.evaluation.runs.image_log import ImageRecord, read_log
from ovseg.evaluation.runs.measures import RECORDS, REFERRING
from ovseg.system.values import dump
from ovseg.vocabulary import Vocabulary

LEVEL = 0.95
"""Share of the resampled data sets that an interval holds."""

METRICS = {
    "miou_present": (SEMANTIC, "mIoU, present classes", "Mean over the classes of the (resampled) ground truth."),
    "miou_all": (SEMANTIC, "mIoU, all classes", "Mean over all classes of the list; those that do not occur count 0."),
    "pixel_accuracy": (SEMANTIC, "pixel accuracy", "Share of labelled pixels that are right."),
    "pq": (PANOPTIC, "PQ", "Mean over the classes of ground truth or predictions."),
    "mean_iou": (REFERRING, "mIoU of prompts", "Mean over prompts of the IoU of what scores at least 0.5."),
    "overall_iou": (REFERRING, "oIoU", "Pixels of all prompts that are right over those of truth or prediction."),
}
"""Numbers that get intervals. AP has none: it ranks the objects of all images at once."""


_Row = dict[str, tuple[float, np.ndarray]]  # for each number its value, and those (B,) of the resampled data sets


@dataclass(frozen=True, eq=False)
class Entry:
    """One of the runs that are compared.

    Attributes:
        name: As the tables call it, different for each.
        folder: Of the run.
        summary: Its ``result.json``.
        contents: What its data set was.
        images: Its records, by place in the data set.
    """

    name: str
    folder: Path
    summary: dict[str, Any]
    contents: Contents
    images: dict[int, ImageRecord]


def read_entries(folders: Sequence[Path]) -> tuple[list[Entry], list[int]]:
    """Read runs.

    Returns:
        The runs, and the places of the images that all of them have evaluated, ascending.

    Raises:
        InputError: A folder holds no finished run, runs are of other images or other classes, or they share no image.
        ConfigError: Fewer than two were given.
    """
    if len(folders) < 2:
        raise ConfigError(f"got {len(folders)} folder to compare; expected two or more folders of `ovseg eval`")
    summaries = [read_result(folder) for folder in folders]
    names = _names(folders, [summary["model"]["model"] for summary in summaries])
    entries = [_entry(*known) for known in zip(names, folders, summaries, strict=True)]
    for entry in entries[1:]:
        _check_alike(entries[0], entry)
    shared = sorted(set.intersection(*(set(entry.images) for entry in entries)))
    if not shared:
        raise InputError(f"'{folders[0]}' and the others share no image that was evaluated; mend their failures first")
    return entries, shared


def _entry(name: str, folder: Path, summary: dict[str, Any]) -> Entry:
    contents = read_contents(folder / DATA)
    if not contents:
        raise InputError(f"'{folder / DATA}' is empty; expected what the run has written, run ovseg eval again")
    return Entry(name, folder, summary, contents[0], {record.index: record for record in read_log(folder).good})


def _names(folders: Sequence[Path], models: Sequence[str]) -> list[str]:
    """Call runs by their models, and by their folders where a model is there twice."""
    names = [m if models.count(m) == 1 else f"{m} ({f.name})" for m, f in zip(models, folders, strict=True)]
    return [n if names.count(n) == 1 else str(f) for n, f in zip(names, folders, strict=True)]


def _check_alike(first: Entry, other: Entry) -> None:
    """Refuse runs whose numbers are not of the same images, labels, list of classes and measures.

    Other words for the same classes are allowed, and said (`notes`).
    """
    was, is_ = first.summary, other.summary
    found = [] if was["measures"] == is_["measures"] else [f"measures: {was['measures']} and {is_['measures']}"]
    if (mine := was["vocabulary"]["classes"]) != (theirs := is_["vocabulary"]["classes"]):
        found.append(f"classes: {mine} and {theirs}")
    elif first.contents.values != other.contents.values or _moved(first.contents.classes, other.contents.classes):
        found += class_differences(first.contents.classes, other.contents.classes)
    common = first.images.keys() & other.images.keys()
    measured = {first.images[index].name for index in common}
    found += file_differences(first.contents, other.contents, measured)
    if found:
        raise InputError(
            f"'{first.folder}' and '{other.folder}' are of different things ({'; '.join(found[:6])}); expected runs on "
            "one data set with equal --limit and --vocabulary"
        )


def _moved(mine: Vocabulary, theirs: Vocabulary) -> bool:
    """Tell whether a name stands for another class in the other list."""
    places = {name: place for place, name in enumerate(mine.names)}
    return any(places.get(name, place) != place for place, name in enumerate(theirs.names))


def notes(entries: Sequence[Entry], shared: Sequence[int]) -> list[str]:
    """Say in words what is not the same in the runs."""
    found = []
    most = max(len(entry.images) for entry in entries)
    if len(shared) < most:
        found.append(f"{len(shared)} images were evaluated by all; {most - len(shared)} by some only, and are left out")
    sides = {
        "words": [entry.summary["vocabulary"]["hash"] for entry in entries],
        "words asked for classes": [dump(entry.summary["vocabulary"].get("asked")) for entry in entries],
        "protocols": [str(entry.summary["protocol"]) for entry in entries],
        "background policies": [str(entry.summary["background"]) for entry in entries],
        "classes for pixels without one": [str(entry.summary.get("no_class_as")) for entry in entries],
        "distractors": [str(entry.summary["distractors"]) for entry in entries],
        "template sets": [str(entry.summary["templates"]) for entry in entries],
        "precisions": [str(entry.summary["precision"]) for entry in entries],
        "devices": [str(entry.summary["device"]) for entry in entries],
        "seeds": [str(entry.summary["seed"]) for entry in entries],
    }
    for what, values in sides.items():
        if len(set(values)) > 1:
            pairs = "; ".join(f"{entry.name}: {value}" for entry, value in zip(entries, values, strict=True))
            found.append(f"different {what}: {pairs}")
    return found


def statistics(entry: Entry, shared: Sequence[int], task: str) -> np.ndarray | None:
    """Return what the numbers of a task are made of, image by image.

    Returns:
        (N, R, K) float64 sums of the N images: hits, ground truth and predictions of each class for labels; IoUs,
        matches, false positives and misses for segments; hits, unions, IoUs and number of prompts, of which K is 1.
        None where an image has no such record.
    """
    count = entry.summary["vocabulary"]["classes"]
    rows = [entry.images[index].measured.get(task) for index in shared]
    if any(row is None for row in rows):
        return None
    if task == REFERRING:
        return np.stack([_prompt_sums(row) for row in rows if row is not None])
    return np.stack([RECORDS[task].from_json(row).table(count) for row in rows]).astype(np.float64)


def _prompt_sums(rows: Sequence[dict[str, Any]]) -> np.ndarray:
    """Return (4, 1) float64 of the prompts of an image: hits, unions, IoUs, and how many they are."""
    records = [RECORDS[REFERRING].from_json(row) for row in rows]
    return np.array([[one.hits, one.union, one.iou(), 1] for one in records], np.float64).reshape(-1, 4).sum(0)[:, None]


def numbers(task: str, sums: np.ndarray) -> dict[str, np.ndarray]:
    """Compute the numbers of data sets from the sums over their images.

    Args:
        task: Of the sums.
        sums: (B, R, K) float64, as `statistics` has them, for B data sets.

    Returns:
        For each number (B,) float64; NaN where there is nothing to average.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        if task == SEMANTIC:
            hits, truth, predicted = np.moveaxis(sums, 1, 0)
            present = truth > 0
            total = np.where(present, hits / (truth + predicted - hits), 0).sum(-1)
            return {
                "miou_present": total / present.sum(-1),
                "miou_all": total / sums.shape[-1],
                "pixel_accuracy": hits.sum(-1) / truth.sum(-1),
            }
        if task == REFERRING:
            hits, union, ious, prompts = np.moveaxis(sums[..., 0], 1, 0)
            return {"mean_iou": ious / prompts, "overall_iou": hits / union}
        iou, matched, wrong, missed = np.moveaxis(sums, 1, 0)
        seen = matched + wrong + missed > 0
        pq = np.where(seen, iou / UNIT / (matched + (wrong + missed) / 2), 0)
        return {"pq": pq.sum(-1) / seen.sum(-1)}


def bootstrap_weights(images: int, resamples: int, seed: int) -> np.ndarray:
    """Return how often each image is drawn in each resampled data set, (B, N) float64; each row sums to N."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(images, np.full(images, 1 / images), size=resamples).astype(np.float64)


def compare(folders: Sequence[Path], resamples: int = 1000, seed: int = 0) -> tuple[dict[str, Any], list[Entry]]:
    """Compare runs; the first is what the others are measured against.

    Args:
        folders: Of finished runs of `ovseg eval` on one data set.
        resamples: Data sets drawn for the intervals.
        seed: Of the draws.

    Returns:
        What goes into ``compare.json``, and the runs.

    Raises:
        InputError: The runs cannot be compared.
        ConfigError: Fewer than two runs, or fewer than one resample.
    """
    if resamples < 1:
        raise ConfigError(f"--resamples is {resamples}; expected at least 1, usually 1000")
    entries, shared = read_entries(folders)
    weights = bootstrap_weights(len(shared), resamples, seed)
    rows = [_row(entry, shared, weights) for entry in entries]
    if not rows[0]:
        raise InputError(f"'{folders[0]}' has no number that gets an interval ({', '.join(METRICS)}); add such --tasks")
    models = [_model(entry, row, rows[0]) for entry, row in zip(entries, rows, strict=True)]
    summary = {
        "dataset": entries[0].summary["dataset"],
        "images": len(shared),
        "reference": entries[0].name,
        "resamples": resamples,
        "seed": seed,
        "level": LEVEL,
        "rule": "Paired bootstrap over images, percentile intervals; 'difference' is that to the reference, "
        "'better' the share of resampled data sets in which it is above 0, ties counted half.",
        "rules": {name: rule for name, (_, _, rule) in METRICS.items()},
        "notes": notes(entries, shared),
        "models": models,
        "classes": _classes(entries, shared),
    }
    return summary, entries


def _row(entry: Entry, shared: Sequence[int], weights: np.ndarray) -> _Row:
    """Return each number of a run and its values (B,) on the resampled data sets."""
    found: _Row = {}
    for task in (SEMANTIC, PANOPTIC, REFERRING):
        table = statistics(entry, shared, task)
        if table is None:
            continue
        whole = numbers(task, table.sum(0, keepdims=True))
        drawn: dict[str, list[np.ndarray]] = {name: [] for name in whole}
        flat = table.reshape(len(shared), -1)
        for part in np.array_split(weights, -(-len(weights) // 50)):  # 50 data sets at a time
            for name, values in numbers(task, (part @ flat).reshape(len(part), *table.shape[1:])).items():
                drawn[name].append(values)
        found |= {name: (float(value[0]), np.concatenate(drawn[name])) for name, value in whole.items()}
    return found


def _model(entry: Entry, row: _Row, reference: _Row) -> dict[str, Any]:
    shared = [name for name in row if name in reference]
    return {
        "name": entry.name,
        "folder": str(entry.folder),
        "seconds_per_image": entry.summary["timing"]["seconds_per_image"],
        "numbers": {name: _interval(*pair) for name, pair in row.items()},
        "difference": {name: _difference(row[name], reference[name]) for name in shared},
    }


def _interval(value: float, drawn: np.ndarray) -> dict[str, float | None]:
    edges = (1 - LEVEL) / 2, (1 + LEVEL) / 2
    low, high = np.nanquantile(drawn, edges) if np.isfinite(drawn).any() else (np.nan, np.nan)
    found = {"value": value, "low": float(low), "high": float(high)}
    return {name: round(number, 6) if np.isfinite(number) else None for name, number in found.items()}


def _difference(own: tuple[float, np.ndarray], reference: tuple[float, np.ndarray]) -> dict[str, float | None]:
    gaps = own[1] - reference[1]
    better = np.mean(gaps > 0) + np.mean(gaps == 0) / 2
    return {**_interval(own[0] - reference[0], gaps), "better": round(float(better), 6)}


def _classes(entries: Sequence[Entry], shared: Sequence[int]) -> list[dict[str, Any]]:
    """Return the IoU of each present class by every model, those that differ most first."""
    tables = [statistics(entry, shared, SEMANTIC) for entry in entries]
    if any(table is None for table in tables):
        return []
    sums = np.stack([table.sum(0) for table in tables if table is not None])  # (models, 3, K)
    hits, truth, predicted = np.moveaxis(sums, 1, 0)
    present = np.flatnonzero(truth[0])
    iou = hits[:, present] / (truth + predicted - hits)[:, present]
    order = np.argsort(-(iou.max(0) - iou.min(0)), kind="stable")
    names = entries[0].summary["vocabulary"]["names"]
    return [
        {
            "id": int(present[i]),
            "name": names[present[i]],
            "pixels": int(truth[0, present[i]]),
            "iou": [round(float(value), 6) for value in iou[:, i]],
        }
        for i in order
    ]
