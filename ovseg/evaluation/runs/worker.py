"""One image of a data set: read, labelled, compared with its ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ovseg.data.dataset import PANOPTIC, SEMANTIC, Dataset, Segments
from ovseg.data.images import LoadedImage, read_image
from ovseg.errors import InputError
from ovseg.evaluation.runs.image_log import ImageRecord
from ovseg.evaluation.runs.measures import Found, Measures
from ovseg.evaluation.runs.plan import Plan
from ovseg.evaluation.runs.sources import Source

if TYPE_CHECKING:
    from ovseg.segmenter import Segmenter


@dataclass(frozen=True, eq=False)
class Worker:
    """What evaluates the images of a data set in this process; validation in training does it by this, too."""

    plan: Plan
    dataset: Dataset
    measures: Measures
    source: Source

    @classmethod
    def open(cls, plan: Plan, dataset: Dataset, measures: Measures, segmenter: Segmenter) -> Worker:
        """Take the source of a plan; arguments and what is raised as `Plan.open_source`."""
        return cls(plan, dataset, measures, plan.open_source(dataset, measures, segmenter))

    def name(self, index: int) -> str:
        """Return what an image is called, see `Dataset.image_name`."""
        return self.dataset.image_name(self.dataset.records[index])

    def measure(self, index: int) -> tuple[ImageRecord, np.ndarray]:
        """Label one image and compare it with its ground truth.

        Returns:
            What was measured, and the labels (H, W) int32.

        Raises:
            InputError: A file cannot be used.
        """
        record, name = self.dataset.records[index], self.name(index)
        torch.manual_seed(self.plan.seed + index)  # methods that draw must not depend on what was drawn before a kill
        seen = look(self.dataset, record, tuple(self.measures.evaluators))
        ids = self.plan.class_ids(index, seen.present, len(self.dataset.classes), self.source.rest)
        height, width = seen.truth.ids.shape
        found = fit(self.source(name, seen.image, ids, seen.present), (height, width), name)
        measured, scores = self.measures.measure(record, seen.truth, found)
        notes = (*seen.notes, *found.notes)
        done = ImageRecord(
            index, name, (height, width), seconds=found.seconds, notes=notes, scores=scores, measured=measured
        )
        return done, found.labels


@dataclass(frozen=True, eq=False)
class Look:
    """An image and its ground truth, each read once.

    Attributes:
        image: The photograph.
        truth: Its masks, at their own size.
        present: Classes that they have, ascending.
        notes: What the reader of the result should know.
    """

    image: LoadedImage
    truth: Segments
    present: np.ndarray
    notes: tuple[str, ...]


def look(dataset: Dataset, record: dict[str, Any], tasks: Sequence[str]) -> Look:
    """Read an image of a data set and its ground truth, for these tasks.

    Raises:
        InputError: Either is missing or broken, or they are of other proportions.
    """
    image = read_image(record["file_name"])
    truth, notes = read_truth(dataset, record, image, tasks)
    return Look(image, truth, np.unique(truth.classes), notes)


def read_truth(
    dataset: Dataset, record: dict[str, Any], image: LoadedImage, tasks: Sequence[str] = (SEMANTIC,)
) -> tuple[Segments, tuple[str, ...]]:
    """Read the ground truth of an image at its own size.

    Where only labels are compared it may have another size than the image, with the same proportions: predictions are
    then brought to it, and never the other way.

    Returns:
        The masks, and what the reader of the result should know.

    Raises:
        InputError: It is missing, broken or of other proportions.
    """
    height, width = image.pixels.shape[:2]
    size = _truth_size(record) or (height, width)
    alike = abs(size[0] * width - size[1] * height) <= max(*size, height, width)  # equal but for a rounded pixel
    if size == (height, width) or not alike or set(tasks) - {SEMANTIC, "calibration"}:
        found = dataset.read_segments(record, (height, width))
        return found, found.empty if dataset.kind == PANOPTIC else ()
    note = f"ground truth is {size[1]}x{size[0]}, the image {width}x{height}"
    return dataset.read_segments(record, size), (note,)


def _truth_size(record: dict[str, Any]) -> tuple[int, int] | None:
    """Return height and width of a ground truth picture; None where there is none, or none that can be read."""
    from PIL import Image

    path = record.get("sem_seg_file_name") or record.get("pan_seg_file_name")
    try:
        with Image.open(path) as picture:  # type: ignore[arg-type]
            return picture.height, picture.width
    except Exception:  # decoders raise nearly anything; reading it says what is wrong
        return None


def fit(found: Found, size: tuple[int, ...], name: str) -> Found:
    """Bring labels to the size of the ground truth, nearest pixel; segments and objects are left as they are.

    Raises:
        InputError: The proportions differ.
    """
    height, width = found.labels.shape
    if (height, width) == size:
        return found
    if abs(size[0] * width - size[1] * height) > max(*size, height, width):
        raise InputError(
            f"prediction of '{name}' is {width}x{height} pixels, its ground truth {size[1]}x{size[0]}; expected equal "
            "sizes, make it anew"
        )
    scores = None if found.scores is None else nearest(found.scores, size)
    note = f"labels of {width}x{height} were brought to {size[1]}x{size[0]}"
    return Found(nearest(found.labels, size), scores, None, None, found.seconds, (*found.notes, note))


def nearest(values: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Bring a map (H, W) to another size by the nearest pixel."""
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(np.int64) for new, old in zip(size, values.shape, strict=True)
    )
    return values if values.shape == size else values[rows[:, None], columns]
