"""Evaluate models on Scenes: mIoU over present and over all classes, with the full vocabulary or a small one per image.

    python tools/evaluate.py --data data/scenes --splits val,novel,photo --models clip/mini,sclip/mini,mini
    python tools/evaluate.py --data data/scenes --splits val --models mini --distractors 12
    python tools/evaluate.py --data data/scenes --all-training-free --markdown table.md --plot table.png

Without --distractors every image is labelled with all names of the data set. With N of them it gets the classes it
shows and N others, drawn anew for each image from a fixed seed.

IoUs are those of the whole split, one confusion matrix for all images: with --distractors a class also pays for the
images in which it was a distractor. The column "by image" is the mean over images of the mean IoU of the things that
the image shows.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from ovseg.data.coco_json import read_coco_json
from ovseg.data.dataset import Dataset, Segments
from ovseg.data.images import read_image
from ovseg.errors import InputError, OvsegError
from ovseg.evaluation import InstanceEvaluator, PanopticEvaluator, SemanticEvaluator
from ovseg.evaluation.instance import InstanceMasks, true_instances
from ovseg.evaluation.segments import from_labels, from_panoptic_seg
from ovseg.files import atomic_write
from ovseg.recalibration import list_recalibrations
from ovseg.segmentation import Segmentation
from ovseg.segmenter import Segmenter
from ovseg.vocabulary import Vocabulary
from ovseg.zoo import load

COLUMNS = {
    "miou_present": "present",
    "miou_all": "all",
    "foreground_miou": "things",
    "things_per_image": "by image",
    "pixel_accuracy": "pixels",
    "pq": "PQ",
    "ap": "AP",
}


def read_split(folder: Path, limit: int | None) -> Dataset:
    """Read a split of Scenes; missing or broken files are errors."""
    path = folder / "panoptic.json"
    try:
        dataset = read_coco_json(path, folder / "images", folder / "panoptic", folder.name)
    except InputError as error:
        raise InputError(f"{error}; make it with datasets/prepare_scenes.py") from error
    return replace(dataset, records=dataset.records[:limit])


class Scores:
    """What is measured over a split: labels, labels of single images, panoptic segments and instances."""

    def __init__(self, split: Dataset) -> None:
        self.split = split
        things = [entry.is_thing for entry in split.classes]
        self.labels, self.alone = (SemanticEvaluator(len(things), things) for _ in range(2))
        self.segments, self.objects = PanopticEvaluator(len(things), things), InstanceEvaluator(len(things))
        self.by_image: list[float] = []
        self.has_objects = False

    def add(self, record: dict[str, Any], truth: Segments, result: Segmentation, ids: np.ndarray) -> None:
        """Compare a result, whose class ids stand for ``ids`` of the split, with the truth."""
        labels = np.append(ids, -1)[result.labels]
        self.labels.add(truth.semantic(), labels)
        self.alone.reset()
        self.alone.add(truth.semantic(), labels)
        self.by_image.append(self.alone.evaluate().foreground_miou)
        found = from_labels(labels)
        if result.panoptic is not None:
            infos = [{"id": s.id, "category_id": int(ids[s.class_id])} for s in result.panoptic.segments]
            found = from_panoptic_seg(result.panoptic.ids, infos)
        self.segments.add(truth, found)
        if result.instances is not None:
            self.has_objects = True
            found_objects = InstanceMasks(
                labels.shape,
                [dict(one.rle) for one in result.instances],
                ids[[one.class_id for one in result.instances]].astype(np.int64),
                np.array([one.score for one in result.instances], np.float64),
                np.zeros(len(result.instances), bool),
                np.array([one.area for one in result.instances], np.float64),
            )
            self.objects.add(record["image_id"], true_instances(self.split, record, labels.shape), found_objects)

    def to_json(self) -> dict[str, Any]:
        """Return all numbers; AP is None for models that tell no objects."""
        return {
            **self.labels.evaluate().to_json(),
            "things_per_image": round(float(np.nanmean(self.by_image)), 6),
            "pq": self.segments.evaluate().to_json()["pq"],
            "ap": self.objects.evaluate().to_json()["ap"] if self.has_objects else None,
        }


def evaluate(segmenter: Segmenter, split: Dataset, distractors: int | None) -> dict[str, Any]:
    """Label all images of a split and compare with its masks; see the top of this file for `distractors`."""
    scores, seconds = Scores(split), []
    rows = track(split.records, split.name, transient=True, disable=not sys.stderr.isatty())
    for index, record in enumerate(rows):
        image = read_image(record["file_name"])
        truth = split.read_segments(record, image.pixels.shape[:2])
        ids = np.arange(len(split.classes))
        if distractors is not None:
            own = np.unique(truth.classes)
            rng = np.random.default_rng([index, distractors])
            ids = np.concatenate([own, rng.permutation(np.setdiff1d(ids, own))[:distractors]])
        segmenter.set_vocabulary(
            split.classes if distractors is None else Vocabulary(tuple(split.classes[i] for i in ids))
        )
        start = time.perf_counter()
        result = next(segmenter.stream([image.path]))
        seconds.append(time.perf_counter() - start)
        scores.add(record, truth, result, ids)
    return {
        "split": split.name,
        "images": len(split.records),
        **scores.to_json(),
        "ms_per_image": round(1000 * float(np.median(seconds))),
    }


def table(rows: list[dict[str, Any]]) -> Table:
    """Return the results as a table for the terminal."""
    view = Table(
        title="mIoU: present, all, thing classes, things by image; pixel accuracy; PQ; AP", title_justify="left"
    )
    for column in ("model", "split", *COLUMNS.values(), "classes", "ms"):
        view.add_column(column, justify="left" if column in ("model", "split") else "right")
    for row in rows:
        scores = ["-" if row[c] is None else f"{100 * row[c]:.1f}" for c in COLUMNS]
        classes = f"{row['present']} / {row['total']}"
        view.add_row(row["model"], row["split"], *scores, classes, str(row["ms_per_image"]))
    return view


def by_model(rows: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the rows by model and split, the best model of the first split first."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["model"], {})[row["split"]] = row
    first = rows[0]["split"]
    return dict(sorted(found.items(), key=lambda item: -item[1][first]["miou_present"]))


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return one Markdown row per model, one column per split: mIoU over present classes / of things by image."""
    splits = list(dict.fromkeys(row["split"] for row in rows))
    lines = ["| model | " + " | ".join(splits) + " | ms / image |", "|---|" + "---|" * (len(splits) + 1)]
    for model, own in by_model(rows).items():
        cells = [f"{100 * own[s]['miou_present']:.1f} / {100 * own[s]['things_per_image']:.1f}" for s in splits]
        lines.append(f"| {model} | " + " | ".join(cells) + f" | {own[splits[0]]['ms_per_image']} |")
    return "\n".join(lines) + "\n"


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw the mIoU over present classes as bars, one group per model and one colour per split, with the time."""
    from matplotlib.figure import Figure

    models, splits = by_model(rows), list(dict.fromkeys(row["split"] for row in rows))
    figure = Figure(figsize=(8, 1 + 0.42 * len(models)), layout="constrained")
    axes = figure.subplots()
    height = 0.8 / len(splits)
    for place, (split, colour) in enumerate(zip(splits, ("#0072b2", "#e69f00", "#009e73", "#cc79a7"), strict=False)):
        values = [100 * own[split]["miou_present"] for own in models.values()]
        axes.barh([i + place * height for i in range(len(models))], values, height, label=split, color=colour)
    times = [own[splits[0]]["ms_per_image"] for own in models.values()]
    middle = [i + height * (len(splits) - 1) / 2 for i in range(len(models))]
    axes.set_yticks(middle, [f"{model}  ({ms:,} ms)" for model, ms in zip(models, times, strict=True)])
    axes.invert_yaxis()
    axes.set_xlabel("mIoU over present classes, percent")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", frameon=False)
    figure.savefig(path, dpi=110, format="png")


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/scenes"), help="folder of datasets/prepare_scenes.py")
    parser.add_argument("--splits", default="val,novel,photo")
    parser.add_argument("--models", default="mini", help="comma separated model names")
    parser.add_argument(
        "--all-training-free", action="store_true", help="every training-free method on the CLIP of --clip"
    )
    parser.add_argument("--clip", default="mini", help="card, folder or ARCHITECTURE/TAG for --all-training-free")
    parser.add_argument("--distractors", type=int, help="label with an image's own classes and this many others")
    parser.add_argument("--limit", type=int, help="only the first images of each split")
    parser.add_argument("--short-side", type=int, help="network size in place of the model's own")
    parser.add_argument("--protocol", default="", help="settings of a benchmark, or common (default: the model's own)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, help="write all numbers here")
    parser.add_argument("--markdown", type=Path, help="write a Markdown table here")
    parser.add_argument("--plot", type=Path, help="draw the table here, as a PNG")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Evaluate every model on every split and print one table."""
    args = parse_args(argv)
    names = (
        [f"{m.lower()}/{args.clip}" for m in list_recalibrations()]
        if args.all_training_free
        else args.models.split(",")
    )
    splits = [read_split(args.data / name, args.limit) for name in args.splits.split(",")]
    protocol = {"SHORT_SIDE": args.short_side} if args.short_side else {}
    rows = []
    for name in names:
        changes = {"MODEL": {"PROTOCOL": protocol}} if protocol else None
        segmenter = load(name, args.device, overrides=changes, protocol=args.protocol)
        rule = getattr(segmenter.model, "rule", None)
        segmenter.model.full_scores = getattr(rule, "instances", False)  # models that tell objects do so only then
        for split in splits:
            rows.append({"model": name, **evaluate(segmenter, split, args.distractors)})
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    Console().print(table(rows))
    if args.plot:
        with atomic_write(args.plot) as temporary:
            plot(rows, temporary)
    for path, text in ((args.json, json.dumps(rows, indent=1)), (args.markdown, markdown(rows))):
        if path:
            with atomic_write(path) as temporary:
                temporary.write_text(text)


if __name__ == "__main__":
    try:
        main()
    except OvsegError as error:
        sys.exit(f"error: {error}")
