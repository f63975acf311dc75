"""What silently makes numbers differ, said in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ovseg.data.dataset import INSTANCE, PANOPTIC, PROMPTS, SEMANTIC, Dataset, read_label_image
from ovseg.data.findings import brief
from ovseg.errors import InputError
from ovseg.evaluation.runs.image_log import Log
from ovseg.evaluation.runs.plan import Plan
from ovseg.evaluation.runs.run import Run
from ovseg.evaluation.runs.saved import NOT_LISTED, PERMUTED


def notes(run: Run) -> list[str]:
    """Return what is no fault and belongs to the numbers: of the data set, the words, the predictions and the log."""
    found = [*run.dataset.notes, *run.notes, *(note for source in run.log.sources for note in source["notes"])]
    return [*dict.fromkeys(found), *_of_predictions(run.log), *_versions(run.log)]


def before(plan: Plan, dataset: Dataset, total: int) -> list[str]:
    """Return what can be said before the first image: about labels and protocol; `total` images there are."""
    return [*_depth(dataset), *_protocol(plan, dataset, total), *_problems(dataset)]


def after(dataset: Dataset, log: Log, results: dict[str, Any]) -> list[str]:
    """Return what is seen when all images are done: absent classes, thresholds, sizes, failures."""
    found = [*_absent(dataset, results), *_threshold(dataset, log, results)]
    return [*found, *_sizes(log), *_empty(log), *_kinds(log, results)]


def _of_predictions(log: Log) -> Iterator[str]:
    """Say how many saved predictions list other classes than the evaluation."""
    for start in (PERMUTED, NOT_LISTED):
        found = [(r, note) for r in log.good for note in r.notes if note.startswith(start)]
        if found:
            yield f"{len(found)} of {len(log.good)} predictions: {found[0][1]} ({found[0][0].name})"


def _versions(log: Log) -> Iterator[str]:
    """Say which packages were of several versions while the images were done."""
    every = [source.get("versions", {}) for source in log.sources]
    for key in sorted({key for one in every for key in one}):
        found = sorted({str(one.get(key, "unknown")) for one in every})
        if len(found) > 1:
            yield f"images were done with {key} {' and '.join(found)}: the last digits may differ from those of one"


def _depth(dataset: Dataset) -> Iterator[str]:
    """Look whether label pictures can hold all classes of the files."""
    count = len(dataset.remap)
    if dataset.kind != SEMANTIC or count <= 255 or not dataset.records:
        return
    try:
        bits = read_label_image(dataset.records[0]["sem_seg_file_name"])[1]
    except InputError:
        return  # it is reported by name
    if bits == 8:
        yield (
            f"labels have 8 bits but the list has {count} classes: ids above 254 are lost in such files; save them "
            "with 16 bits, else their images cannot be evaluated"
        )


def _protocol(plan: Plan, dataset: Dataset, total: int) -> Iterator[str]:
    if plan.distractors is not None:
        yield (
            f"each image was labelled with its own classes and {plan.distractors} others: easier than all "
            f"{len(dataset.classes)} at once, and comparable only with the same seed and number"
        )
    if len(dataset.records) < total:
        yield f"only the first {len(dataset.records)} of {total} images were evaluated (--limit)"


def _problems(dataset: Dataset) -> Iterator[str]:
    yield from brief([*dataset.problems, *dataset.left_out])


def _absent(dataset: Dataset, results: dict[str, Any]) -> Iterator[str]:
    """Say which means differ, and why."""
    if SEMANTIC not in results:
        return
    found = results[SEMANTIC]
    if found.present < found.total:
        yield (
            f"{found.present} of {found.total} classes occur in the ground truth: mIoU is "
            f"{100 * found.miou_present:.1f} over those, {100 * found.miou_seen:.1f} over the {found.seen} that occur "
            f"in ground truth or predictions (Detectron2 0.6), {100 * found.miou_all:.1f} over all; papers report any "
            "of these under one name"
        )


def _threshold(dataset: Dataset, log: Log, results: dict[str, Any]) -> Iterator[str]:
    """Compare the policy for the background with the classes."""
    if dataset.kind == PROMPTS:
        return
    policy, own = log.source.get("background", ""), dataset.rest_class
    lost = results[SEMANTIC].no_class_share if SEMANTIC in results else 0.0
    if policy not in ("", "none") and own < 0:
        yield (
            f"background policy '{policy}' leaves pixels without a class, and this set has no class for background: "
            f"{100 * lost:.1f} % of the labelled pixels were missed so; --background none gives each pixel a class"
        )
    if policy == "none" and own >= 0 and not log.source.get("no_class_as"):
        yield (
            f"'{dataset.classes[own].name}' is asked for as a word like any other; many papers use a threshold or "
            "words such as sky and wall in its place"
        )


def _sizes(log: Log) -> Iterator[str]:
    """Say where ground truth, image and prediction had other sizes."""
    other = [r for r in log.good if any(note.startswith("ground truth is") for note in r.notes)]
    brought = [r for r in log.good if any("were brought to" in note for note in r.notes)]
    if other:
        note = next(note for note in other[0].notes if note.startswith("ground truth is"))
        yield (
            f"{len(other)} images have resized ground truth ({other[0].name}: {note}): labels were compared at its "
            "size, by the nearest pixel; numbers at the size of the image differ"
        )
    elif brought:
        yield (
            f"{len(brought)} predictions are of another size than the ground truth ({brought[0].name}): they were "
            "brought to it by the nearest pixel, which costs accuracy at borders"
        )


def _empty(log: Log) -> Iterator[str]:
    """Say that segments are listed which no pixel shows."""
    lines = [note for r in log.good for note in r.notes if "has no pixel of segment" in note]
    yield from brief(lines)


def _kinds(log: Log, results: dict[str, Any]) -> Iterator[str]:
    failed = len(log.images) - len(log.good)
    if failed:
        yield f"{failed} of {len(log.images)} images could not be evaluated and count nowhere; they are listed by name"
    if PANOPTIC in results and INSTANCE not in results:
        yield (
            "the model tells no objects of a class apart: for PQ all pixels of a class are one segment, which "
            "penalises images with several"
        )
