"""Where labels come from: a model that is run. Those that were saved before are in `ovseg.evaluation.runs.saved`."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ovseg.contract import LABELS
from ovseg.data.images import LoadedImage
from ovseg.evaluation.metrics.instance_masks import InstanceMasks
from ovseg.evaluation.metrics.segments import from_panoptic
from ovseg.evaluation.robustness import Condition
from ovseg.evaluation.runs.measures import Found
from ovseg.jobs.identity import describe
from ovseg.result.segmentation import Segmentation
from ovseg.vocabulary import Vocabulary

if TYPE_CHECKING:
    from ovseg.segmenter import Segmenter


class Source(Protocol):
    """Gives labels for images.

    Attributes:
        description: What makes the predictions, as JSON values; what `made_by` takes of it is equal in all
            processes of a run.
    """

    description: dict[str, Any]

    def __call__(self, name: str, image: LoadedImage, ids: np.ndarray, present: np.ndarray) -> Found:
        """Label an image.

        Args:
            name: What the data set calls it, see `Dataset.image_name`.
            image: Read from a file.
            ids: (N,) integers, the classes of the data set to label it with; where there are none, no pixel has one.
            present: Classes of its ground truth.

        Raises:
            InputError: The image or its prediction cannot be used.
        """


class ModelSource:
    """Runs a model."""

    def __init__(
        self,
        segmenter: Segmenter,
        classes: Vocabulary,
        background: str | None = None,
        templates: str | None = None,
        condition: Condition | None = None,
        want: Iterable[str] = LABELS,
    ) -> None:
        """Ask for all classes once, so that every later list takes its embeddings from the cache, in any process.

        Args:
            segmenter: The model.
            classes: Of the data set.
            background: Policy; None for the model's own.
            templates: Template set; None for the model's own.
            condition: What is done to photos and words; None for nothing.
            want: What is measured of `ovseg.contract.WANTS`; what the model does not give is left out.

        Raises:
            OvsegError: As `Segmenter.words`.
        """
        self.segmenter, self.classes, self.condition = segmenter, classes, condition or Condition()
        self.policy, self.want = (background, templates), segmenter.model.gives & frozenset(want)
        self.whole = segmenter.words(self.condition.vocabulary(classes), *self.policy)
        self.description = describe(segmenter, self.whole)

    def __call__(self, name: str, image: LoadedImage, ids: np.ndarray, present: np.ndarray) -> Found:
        """Segment an image; see `Source`."""
        if not len(ids):  # a photograph of void without distractors: there is nothing to ask for
            return Found(np.full(image.pixels.shape[:2], -1, np.int32))
        words = self.whole
        if not np.array_equal(ids, np.arange(len(self.classes))):
            own = Vocabulary(tuple(self.classes[i] for i in ids))
            words = self.segmenter.words(self.condition.vocabulary(own), *self.policy)
        picture = shown(self.condition, name, image, self.classes, present)
        start = time.perf_counter()
        result = self.segmenter.encode(picture).answer(words, want=self.want)
        seconds = time.perf_counter() - start
        return from_segmentation(result, np.pad(ids, (0, len(result.classes) - len(ids)), constant_values=-1), seconds)


def shown(condition: Condition, name: str, image: LoadedImage, classes: Vocabulary, present: np.ndarray) -> Any:
    """Return what a model sees of an image under a condition: the image itself, or changed pixels."""
    if condition.FAMILY == "clean":
        return image
    return condition.image(image.pixels, name, classes, present.tolist())


def from_segmentation(result: Segmentation, ids: np.ndarray, seconds: float) -> Found:
    """Return a result in the ids of the data set.

    Args:
        result: Its class ids are places in ``ids``.
        ids: (N,) integers, class of the data set for each class of the result; -1 for words that are none of them,
            whose pixels, segments and objects are dropped.
        seconds: Time of the model.
    """
    labels = np.append(ids, -1)[result.labels].astype(np.int32)
    segments = objects = None
    if result.panoptic is not None:
        segments = from_panoptic(result.panoptic, ids)
    if result.instances is not None:
        own = [one for one in result.instances if ids[one.class_id] >= 0]
        objects = InstanceMasks(
            (labels.shape[0], labels.shape[1]),
            [dict(one.rle) for one in own],
            ids[np.array([one.class_id for one in own], np.int64)].astype(np.int64),
            np.array([one.score for one in own], np.float64),
            np.zeros(len(own), bool),
            np.array([one.area for one in own], np.float64),
        )
    return Found(labels, result.scores, segments, objects, seconds, tuple(result.meta.get("notes", ())))
