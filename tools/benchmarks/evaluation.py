"""How fast the evaluators are beside Detectron2's SemSegEvaluator and COCO's definition of PQ, and whether they agree.

What is compared is the counting alone: both sides get labels and segment maps that are in memory already.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.progress import track
from rich.table import Table

from ovseg.data.dataset import Segments
from ovseg.evaluation import PanopticEvaluator, SemanticEvaluator, from_ids
from ovseg.system import terminal
from ovseg.system.files import atomic_write, check_writable

TOLERANCE = 1e-9
SCENE = "ovseg_benchmark_scene"  # entry of Detectron2's catalogs
Info = dict[str, Any]


@dataclass(frozen=True)
class Scene:
    """Ground truth and prediction of one image: segment ids (H, W) int32 from 1, 0 void, and COCO's segments_info."""

    truth: np.ndarray
    truth_infos: list[Info]
    ids: np.ndarray
    infos: list[Info]

    def labels(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the classes (H, W): uint16 of the ground truth, 65535 void, and int32 of the prediction."""
        truth, prediction = (
            np.array([void, *(info["category_id"] for info in infos)])[ids]
            for ids, infos, void in ((self.truth, self.truth_infos, 65535), (self.ids, self.infos, 0))
        )
        return truth.astype(np.uint16), prediction.astype(np.int32)


def make_scene(size: tuple[int, int], classes: int, regions: int, seed: int) -> Scene:
    """Draw ragged regions of random classes; the prediction has them a little displaced, a third of another class."""
    rng = np.random.default_rng(seed)
    places = rng.integers(0, size, (regions, 2))
    moved = (places + rng.normal(0, min(size) / 60, places.shape)).astype(int).clip(0, np.array(size) - 1)
    categories = rng.integers(0, classes, regions)
    guessed = np.where(rng.random(regions) < 1 / 3, rng.integers(0, classes, regions), categories)
    truth, ids = _regions(places, size, rng), _regions(moved, size, rng)
    truth[rng.integers(0, size[0]) :: size[0] // 3] = 0  # some rows of void
    return Scene(truth, _infos(truth, categories), ids, _infos(ids, guessed))


def _regions(places: np.ndarray, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Number each pixel (H, W) int32, from 1, by the place next to it, with edges as rough as those of real masks."""
    seeds = np.ones(size, np.uint8)
    seeds[tuple(places.T)] = 0
    _, numbers = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    wave = cv2.resize(rng.normal(0, 12, (2, size[0] // 20, size[1] // 20)).transpose(1, 2, 0), size[::-1])
    rows, columns = np.indices(size)
    where = np.stack([columns, rows], -1) + wave + rng.integers(-1, 2, (*size, 2))
    rows, columns = where[..., 1].astype(int).clip(0, size[0] - 1), where[..., 0].astype(int).clip(0, size[1] - 1)
    return numbers[rows, columns].astype(np.int32)


def _infos(ids: np.ndarray, categories: np.ndarray) -> list[Info]:
    areas = np.bincount(ids.ravel())
    return [
        {"id": i, "category_id": int(categories[i - 1]), "iscrowd": 0, "area": int(areas[i])}
        for i in range(1, len(areas))
        if areas[i]
    ]


def detectron2_evaluator(truth: np.ndarray, classes: int) -> Any:
    """Return Detectron2's SemSegEvaluator, to which `truth` (H, W) is the ground truth of its only image."""
    from detectron2.data import DatasetCatalog, MetadataCatalog
    from detectron2.evaluation import SemSegEvaluator

    for catalog in (DatasetCatalog, MetadataCatalog):
        catalog.pop(SCENE, None)
    DatasetCatalog.register(SCENE, lambda: [{"file_name": "image", "sem_seg_file_name": "truth"}])
    MetadataCatalog.get(SCENE).set(stuff_classes=[str(i) for i in range(classes)], ignore_label=65535)
    logging.getLogger("detectron2.evaluation.sem_seg_evaluation").setLevel(logging.ERROR)
    found = SemSegEvaluator(SCENE, distributed=False, sem_seg_loading_fn=lambda _, dtype: truth.astype(dtype))
    found.reset()
    return found


class Labels:
    """Stands for the scores (K, H, W) that Detectron2 takes the argmax of, which would not fit in memory here."""

    def __init__(self, labels: np.ndarray) -> None:
        import torch

        self.found = torch.from_numpy(labels)

    def argmax(self, dim: int) -> Any:
        """Return the labels."""
        return self.found


def detectron2_numbers(evaluator: Any) -> dict[str, float]:
    """Return Detectron2's numbers, 0..1, and its mIoU before July 2022: over classes in ground truth or predictions."""
    found = evaluator.evaluate()["sem_seg"]
    matrix = evaluator._conf_matrix[:-1, :-1]  # predictions by ground truth
    iou = np.diag(matrix) / np.maximum(matrix.sum(0) + matrix.sum(1) - np.diag(matrix), 1)
    seen = (matrix.sum(0) > 0) | (matrix.sum(1) > 0)
    return {
        "miou_present": found["mIoU"] / 100,
        "miou_seen": iou[matrix.sum(0) > 0].sum() / seen.sum(),
        "frequency_weighted_iou": found["fwIoU"] / 100,
        "mean_accuracy": found["mACC"] / 100,
        "pixel_accuracy": found["pACC"] / 100,
    }


class PanopticReference:
    """PQ as COCO defines it, with dictionaries of pairs, one image and one segment after the other.

    Written from the rules of https://github.com/cocodataset/panopticapi; slow and plain on purpose.
    """

    def __init__(self, num_classes: int) -> None:
        self.hits, self.wrong, self.missed = ([0] * num_classes for _ in range(3))
        self.iou = [0.0] * num_classes

    def add(self, scene: Scene) -> None:
        """Add one image; areas of the ground truth are those in its list."""
        span = int(scene.ids.max()) + 1
        keys, pixels = np.unique(scene.truth.astype(np.int64) * span + scene.ids, return_counts=True)
        common = {divmod(int(key), span): int(n) for key, n in zip(keys, pixels, strict=True)}
        area = dict(zip(*(a.tolist() for a in np.unique(scene.ids, return_counts=True)), strict=True))
        truth, found = ({info["id"]: info for info in infos} for infos in (scene.truth_infos, scene.infos))
        matched, used = set(), set()
        for (i, j), overlap in common.items():
            if i not in truth or j not in found or truth[i]["iscrowd"]:
                continue
            if truth[i]["category_id"] != found[j]["category_id"]:
                continue
            iou = overlap / (truth[i]["area"] + area[j] - overlap - common.get((0, j), 0))
            if iou > 0.5:
                matched.add(i)
                used.add(j)
                self.hits[truth[i]["category_id"]] += 1
                self.iou[truth[i]["category_id"]] += iou
        crowds = {info["category_id"]: i for i, info in truth.items() if info["iscrowd"]}
        for i, info in truth.items():
            if i not in matched and not info["iscrowd"]:
                self.missed[info["category_id"]] += 1
        for j, info in found.items():
            ignored = common.get((0, j), 0) + common.get((crowds.get(info["category_id"], -1), j), 0)
            if j not in used and ignored / area[j] <= 0.5:
                self.wrong[info["category_id"]] += 1

    def evaluate(self) -> dict[str, float]:
        """Return PQ, SQ and RQ over the classes that occur."""
        rows = []
        for iou, hits, wrong, missed in zip(self.iou, self.hits, self.wrong, self.missed, strict=True):
            if hits + wrong + missed:
                weight = hits + 0.5 * wrong + 0.5 * missed
                rows.append((iou / weight, iou / hits if hits else 0.0, hits / weight))
        return dict(zip(("pq", "sq", "rq"), np.mean(rows, axis=0).tolist(), strict=True))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    parser.add_argument("--classes", type=int, default=847, help="length of the class list (%(default)s)")
    parser.add_argument("--height", type=int, default=1500, help="of the images in pixels (%(default)s)")
    parser.add_argument("--width", type=int, default=2000, help="of the images in pixels (%(default)s)")
    parser.add_argument("--regions", type=int, default=60, help="segments of an image (%(default)s)")
    parser.add_argument("--images", type=int, default=5, help="images after the first, which warms up (%(default)s)")
    parser.add_argument("--semantic-limit", type=float, default=5.0, help="least times faster (%(default)s)")
    parser.add_argument("--panoptic-limit", type=float, default=3.0, help="least times faster (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there, too")


def run(args: argparse.Namespace) -> int:
    """Measure and print; the status is 1 where the limits do not hold or the numbers differ."""
    if args.json:
        check_writable(args.json.parent)
    seconds, differences = [], []
    for seed in track(range(args.images + 1), "images", transient=True):
        scene = make_scene((args.height, args.width), args.classes, args.regions, seed)
        (semantic, first), (panoptic, second) = (f(scene, args.classes) for f in (compare_semantic, compare_panoptic))
        differences += [first, second]
        if seed:
            seconds.append({**semantic, **panoptic})
    medians = {key: statistics.median(row[key] for row in seconds) for key in seconds[0]}
    limits = {
        "semantic": ("detectron2", args.semantic_limit),
        "semantic, boundary": ("detectron2", args.semantic_limit),
        "panoptic": ("definition", args.panoptic_limit),
    }
    ratios = {name: statistics.median(row[base] / row[name] for row in seconds) for name, (base, _) in limits.items()}
    problems = [
        f"{name} is {ratio:.1f} times faster than {limits[name][0]}; expected {limits[name][1]:g}"
        for name, ratio in ratios.items()
        if ratio < limits[name][1]
    ]
    if not max(differences) <= TOLERANCE:
        problems.append(f"numbers differ by {max(differences):.2g}; expected at most {TOLERANCE:g}")
    where = f"{args.classes} classes, {args.width}x{args.height} pixels, {args.regions} regions, {args.images} images"
    print_table(medians, ratios, f"{where}; numbers differ by at most {max(differences):.1g}")
    if args.json:
        report = {"where": where, "seconds": medians, "ratios": ratios, "difference": max(differences)}
        with atomic_write(args.json) as temporary:
            temporary.write_text(json.dumps({**report, "problems": problems}, indent=1) + "\n")
    for problem in problems:
        print(f"FAIL {problem}")
    return int(bool(problems))


def compare_semantic(scene: Scene, classes: int) -> tuple[dict[str, float], float]:
    """Return the seconds of Detectron2, of ours, and of ours with Boundary IoU; and how much the numbers differ."""
    truth, labels = scene.labels()
    theirs, output = detectron2_evaluator(truth, classes), {"sem_seg": Labels(labels)}
    ours, with_boundary = SemanticEvaluator(classes), SemanticEvaluator(classes, boundary=True)
    seconds = {
        "detectron2": _seconds(lambda: theirs.process([{"file_name": "image"}], [output])),
        "semantic": _seconds(lambda: ours.add(truth, labels)),
        "semantic, boundary": _seconds(lambda: with_boundary.add(truth, labels)),
    }
    result = ours.evaluate()
    return seconds, max(abs(getattr(result, key) - value) for key, value in detectron2_numbers(theirs).items())


def compare_panoptic(scene: Scene, classes: int) -> tuple[dict[str, float], float]:
    """Return the seconds of the definition and of ours from a model's ids and list; and how much they differ."""
    reference, ours = PanopticReference(classes), PanopticEvaluator(classes)
    truth = to_segments(scene.truth, scene.truth_infos)

    def add() -> None:
        ours.add(truth, to_segments(scene.ids, scene.infos))

    seconds = {"definition": _seconds(lambda: reference.add(scene)), "panoptic": _seconds(add)}
    result = ours.evaluate().overall
    return seconds, max(abs(getattr(result, key) - value) for key, value in reference.evaluate().items())


def to_segments(ids: np.ndarray, infos: list[Info]) -> Segments:
    """Return a map of ids (H, W) and its list as the evaluators take them."""
    return from_ids(ids, [info["id"] for info in infos], [info["category_id"] for info in infos])


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def print_table(seconds: dict[str, float], ratios: dict[str, float], title: str) -> None:
    """Print the medians, each evaluator below what it is compared with."""
    view = Table(title=title, title_justify="left")
    view.add_column("evaluator")
    view.add_column("ms / image", justify="right")
    view.add_column("times faster", justify="right")
    for name, value in seconds.items():
        view.add_row(name, f"{1000 * value:.1f}", f"{ratios[name]:.1f}" if name in ratios else "")
    terminal.console().print(view)
