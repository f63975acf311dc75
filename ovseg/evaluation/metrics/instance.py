"""Average precision and recall of instances by COCO's own code, from run-length encoded masks."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ovseg.errors import EnvironmentProblem, InputError
from ovseg.evaluation.metrics.common import class_flags, flag_list, mean, plain
from ovseg.evaluation.metrics.instance_masks import InstanceMasks
from ovseg.evaluation.metrics.state import Evaluator


@dataclass(frozen=True, eq=False)
class InstanceRecord:
    """One image: its objects and those that were found. Average precision ranks them over all images.

    Attributes:
        image_id: Different for each image of the data set.
        truth: Ground truth.
        prediction: What was found.
    """

    image_id: int | str
    truth: InstanceMasks
    prediction: InstanceMasks

    def to_json(self) -> dict[str, Any]:
        """Return JSON values; `from_json` reads them back to the bit."""
        return {"image_id": self.image_id, "truth": self.truth.to_json(), "prediction": self.prediction.to_json()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> InstanceRecord:
        """Read what `to_json` wrote.

        Raises:
            InputError: A field is missing or of another kind.
        """
        try:
            sides = [InstanceMasks.from_json(values[side]) for side in ("truth", "prediction")]
            return cls(values["image_id"], *sides)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            what = f"record of objects cannot be read ({error!r})"
            raise InputError(f"{what}; expected image_id, truth and prediction as to_json writes them") from error


@dataclass(frozen=True, eq=False)
class InstanceResult:
    """COCO's numbers of one data set; 0..1, NaN where there is nothing to average.

    Attributes:
        class_ap: (K,) float64 AP of each class; NaN for classes without ground truth, and if classes do not count.
        ap: AP at IoU 0.50:0.95 over the classes with ground truth (COCO's rule).
        ap50: AP at IoU 0.5.
        ap75: AP at IoU 0.75.
        ap_small: AP of objects below 32^2 pixels.
        ap_medium: AP of objects between.
        ap_large: AP of objects above 96^2 pixels.
        ar_1: Average recall with one detection per image and class.
        ar_10: Average recall with 10.
        ar_100: Average recall with 100.
        ap_all: Mean AP over all classes of the list, those without ground truth 0.
        ap_base: AP of classes that are not novel; NaN without a split.
        ap_novel: AP of novel classes.
        present: Number of classes with ground truth.
        total: Number of classes in the list.
    """

    class_ap: np.ndarray
    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    ar_1: float
    ar_10: float
    ar_100: float
    ap_all: float
    ap_base: float
    ap_novel: float
    present: int
    total: int

    def to_json(self) -> dict[str, Any]:
        """Return the numbers without the per-class list; None for NaN."""
        return plain(self)


class InstanceEvaluator(Evaluator[InstanceResult]):
    """Keeps the run lengths of all objects and lets pycocotools match them; a few hundred bytes an object.

    Boxes are those of the masks, in ground truth and predictions alike. Images are counted in the order of their ids,
    so neither the order of adding nor the process changes a number.
    """

    def __init__(self, num_classes: int, novel: Sequence[bool] | None = None) -> None:
        """Start empty.

        Args:
            num_classes: K, length of the class list.
            novel: For each class whether training has not seen it; without it there is no split.

        Raises:
            InputError: Flags do not fit the number of classes.
        """
        self.num_classes = num_classes
        self.novel = class_flags(novel, num_classes, "novel")
        self.reset()

    def settings(self) -> dict[str, Any]:
        """Return the arguments."""
        return {"kind": "instance", "num_classes": self.num_classes, "novel": flag_list(self.novel)}

    def reset(self) -> None:
        """Forget all images."""
        self.images: dict[int | str, tuple[InstanceMasks, InstanceMasks]] = {}

    def add(self, image_id: int | str, truth: InstanceMasks, prediction: InstanceMasks) -> InstanceRecord:
        """Measure and count one image; see `measure`.

        Raises:
            InputError: The image was added before, or as `measure`.
        """
        record = InstanceRecord(image_id, truth, prediction)
        self.count(record)  # checks it
        return record

    def measure(self, image_id: int | str, truth: InstanceMasks, prediction: InstanceMasks) -> InstanceRecord:
        """Check the objects of one image; they are matched when all are there.

        Args:
            image_id: Different for each image of the data set; all numbers or all strings.
            truth: Ground truth.
            prediction: What was found, best or not first.

        Raises:
            InputError: Sizes differ, a class is not in the list, or a score is not finite.
        """
        if truth.size != prediction.size:
            raise InputError(
                f"predicted masks of image {image_id!r} are {prediction.size} but ground truth {truth.size}; expected "
                "equal sizes (H, W)"
            )
        classes = np.concatenate([truth.classes, prediction.classes])
        if classes.size and not 0 <= classes.min() <= classes.max() < self.num_classes:
            raise InputError(
                f"image {image_id!r} has classes {classes.min()}..{classes.max()}; expected 0..{self.num_classes - 1}"
            )
        if not np.isfinite(prediction.scores).all():
            raise InputError(f"image {image_id!r} has scores that are not finite; expected numbers to sort by")
        return InstanceRecord(image_id, truth, prediction)

    def count(self, record: InstanceRecord) -> None:
        """Count an image that was measured.

        Raises:
            InputError: It was counted before, or does not fit the class list.
        """
        if record.image_id in self.images:
            raise InputError(f"image {record.image_id!r} was added twice; expected each image once")
        self.measure(record.image_id, record.truth, record.prediction)
        self.images[record.image_id] = record.truth, record.prediction

    def state(self) -> dict[str, np.ndarray]:
        """Return all objects as an array of bytes."""
        rows = [InstanceRecord(key, *pair).to_json() for key, pair in self.images.items()]
        return {"images": np.frombuffer(json.dumps(rows).encode(), np.uint8)}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from a `state` of an evaluator with the same arguments; what was counted here is forgotten."""
        self.reset()
        for row in json.loads(state["images"].tobytes()):
            self.count(InstanceRecord.from_json(row))

    def merge(self, other: Any) -> None:
        """Add what another one has seen, exactly as if its images had been added here.

        Raises:
            InputError: It counts other classes, or has seen one of the same images.
        """
        self._check_settings(other.settings(), "merge evaluators")
        twice = sorted(self.images.keys() & other.images.keys())
        if twice:
            raise InputError(f"image {twice[0]!r} is in both evaluators; expected each image once")
        self.images |= other.images

    def evaluate(self, boxes: bool = False, class_agnostic: bool = False, fast: bool = False) -> InstanceResult:
        """Return the scores of all images added so far.

        Args:
            boxes: Compare the boxes of the masks in place of the masks.
            class_agnostic: Forget the classes: how well objects of any kind are found.
            fast: Let faster-coco-eval match, several times faster; numbers are the same but for the last bit.

        Raises:
            EnvironmentProblem: It is not installed.
        """
        precision, recall = self._run(boxes, class_agnostic, fast)  # (IoU, recall, K, area, most), (IoU, K, area, most)
        per_class = np.full(self.num_classes, np.nan)
        if not class_agnostic:
            whole = precision[:, :, :, 0, -1]
            found = (whole > -1).any((0, 1))
            per_class[found] = whole[:, :, found].mean((0, 1))
        none = np.zeros(self.num_classes, bool)
        novel, base = (none, none) if self.novel is None else (self.novel, ~self.novel)
        present = np.unique(np.concatenate([t.classes[~t.crowd] for t, _ in self.images.values()] or [[]]))
        known = ~np.isnan(per_class)
        tables = {"ap": precision[..., 0, -1], "ap50": precision[0, ..., 0, -1], "ap75": precision[5, ..., 0, -1]}
        tables |= {f"ap_{name}": precision[..., area, -1] for area, name in enumerate(("small", "medium", "large"), 1)}
        tables |= {f"ar_{most}": recall[..., 0, place] for place, most in enumerate((1, 10, 100))}
        numbers: dict[str, Any] = {name: mean(table[table > -1]) for name, table in tables.items()}  # -1: no truth
        return InstanceResult(
            class_ap=per_class,
            **numbers,
            ap_all=float("nan") if class_agnostic else mean(per_class[known], self.num_classes),
            ap_base=mean(per_class[base & known]),
            ap_novel=mean(per_class[novel & known]),
            present=len(present),
            total=self.num_classes,
        )

    def _run(self, boxes: bool, class_agnostic: bool, fast: bool) -> tuple[np.ndarray, np.ndarray]:
        """Return COCO's tables of precision and recall."""
        data, matcher = _library(fast)
        with contextlib.redirect_stdout(io.StringIO()):  # it reports its progress with print
            sides = (self._coco(side, boxes and side == 1, data()) for side in (0, 1))
            run = matcher(*sides, "bbox" if boxes else "segm")
            run.params.useCats = int(not class_agnostic)
            run.evaluate()
            run.accumulate()
        return run.eval["precision"], run.eval["recall"]

    def _coco(self, side: int, boxes: bool, found: Any) -> Any:
        """Fill an empty data set of pycocotools: the ground truth (0) or the predictions (1), with areas of boxes."""
        from pycocotools import mask

        ordered = [self.images[key][side] for key in sorted(self.images)]
        outer = [mask.toBbox(objects.rles).reshape(-1, 4) for objects in ordered]
        annotations = [
            {
                "image_id": number,
                "category_id": int(objects.classes[i]) + 1,
                "segmentation": rle,
                "bbox": outer[number][i].tolist(),
                "area": float(outer[number][i, 2:].prod() if boxes else objects.areas[i]),
                "score": float(objects.scores[i]),
                "iscrowd": int(objects.crowd[i]),
            }
            for number, objects in enumerate(ordered)
            for i, rle in enumerate(objects.rles)
        ]
        found.dataset = {
            "images": [{"id": i, "height": o.size[0], "width": o.size[1]} for i, o in enumerate(ordered)],
            "annotations": [{"id": i, **one} for i, one in enumerate(annotations, 1)],  # COCO takes the id 0 for none
            "categories": [{"id": i + 1, "name": str(i)} for i in range(self.num_classes)],
        }
        found.createIndex()
        return found


def _library(fast: bool) -> tuple[Any, Any]:
    """Return the classes of a data set and of its evaluation."""
    if not fast:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        return COCO, COCOeval
    try:
        from faster_coco_eval import COCO as FastCOCO
        from faster_coco_eval import COCOeval_faster
    except ImportError as error:
        raise EnvironmentProblem(
            "faster-coco-eval is not installed; install it with pip, or leave fast=True out"
        ) from error
    return FastCOCO, COCOeval_faster
