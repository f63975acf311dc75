"""Where labels come from: a model that is run. Those that were saved before are in `ovseg.evaluation.runs.saved`."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ovseg.contract import LABELS, Words
from ovseg.data.dataset import VOID, Dataset
from ovseg.data.images import LoadedImage
from ovseg.evaluation.metrics.calibration import NO_SCORE
from ovseg.evaluation.metrics.instance_masks import InstanceMasks
from ovseg.evaluation.metrics.segments import from_panoptic
from ovseg.evaluation.robustness import Condition
from ovseg.evaluation.runs.asked import Asked
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
        rest: Class that pixels without any count as, and that is not asked for by its name; -1 for none.
    """

    description: dict[str, Any]
    rest: int

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
        dataset: Dataset,
        asked: Asked,
        background: str | None = None,
        templates: str | None = None,
        condition: Condition | None = None,
        want: Iterable[str] = LABELS,
    ) -> None:
        """Ask for all classes once, so that every later list takes its embeddings from the cache, in any process.

        Args:
            segmenter: The model.
            dataset: With the classes that are asked for.
            asked: By which words.
            background: Policy; None for the model's own.
            templates: Template set; None for the model's own.
            condition: What is done to photos and words; None for nothing.
            want: What is measured of `ovseg.contract.WANTS`; what the model does not give is left out.

        Raises:
            OvsegError: As `Segmenter.words`.
        """
        self.segmenter, self.classes, self.condition = segmenter, dataset.classes, condition or Condition()
        self.policy, self.want = (background, templates), segmenter.model.gives & frozenset(want)
        in_force, settings = self._words(asked)[0].background, segmenter.model.settings
        self.asked = asked.filling(dataset.rest_class, in_force, background, settings)
        self.rest = self.asked.rest if self.asked.silent else VOID
        self.whole = self._words(self.asked)
        self.description = describe(segmenter, self.whole[0])
        self.description["notes"] += self.asked.notes
        if self.asked.rest >= 0:
            self.description["no_class_as"] = dataset.classes[self.asked.rest].name
        names = zip(asked.ids.tolist(), asked.vocabulary, strict=True)
        if other := {dataset.classes[i].name: list(entry.names) for i, entry in names if entry != dataset.classes[i]}:
            self.description["asked"] = other

    def __call__(self, name: str, image: LoadedImage, ids: np.ndarray, present: np.ndarray) -> Found:
        """Segment an image; see `Source`."""
        if not (ids != self.rest).any():  # a photograph of void without distractors: there is nothing to ask for
            return Found(np.full(image.pixels.shape[:2], self.asked.rest, np.int32))
        words, places = self.whole
        if not np.array_equal(ids, np.arange(len(self.classes))):
            words, places = self._words(self.asked.of(ids))
        picture = shown(self.condition, name, image, self.classes, present)
        start = time.perf_counter()
        result = self.segmenter.encode(picture).answer(words, want=self.want)
        seconds = time.perf_counter() - start
        return from_segmentation(result, places, seconds, self.asked.rest)

    def _words(self, asked: Asked) -> tuple[Words, np.ndarray]:
        """Embed what is asked under the condition; with it the class (N,) of each, -1 for words that are none."""
        vocabulary = self.condition.vocabulary(asked.vocabulary)
        ids = np.pad(asked.ids, (0, len(vocabulary) - len(asked.ids)), constant_values=VOID)
        if asked.silent:
            spoken = ids != asked.rest
            classes = tuple(entry for entry, kept in zip(vocabulary, spoken, strict=True) if kept)
            vocabulary, ids = replace(vocabulary, classes=classes), ids[spoken]
        return self.segmenter.words(vocabulary, *self.policy), ids


def shown(condition: Condition, name: str, image: LoadedImage, classes: Vocabulary, present: np.ndarray) -> Any:
    """Return what a model sees of an image under a condition: the image itself, or changed pixels."""
    if condition.FAMILY == "clean":
        return image
    return condition.image(image.pixels, name, classes, present.tolist())


def from_segmentation(result: Segmentation, ids: np.ndarray, seconds: float, rest: int = VOID) -> Found:
    """Return a result in the ids of the data set.

    Args:
        result: Its class ids are places in ``ids``.
        ids: (N,) integers, class of the data set for each class of the result; -1 for words that are none of them,
            whose pixels, segments and objects are dropped.
        seconds: Time of the model.
        rest: Class that pixels without any count as; their scores, which are not its own, are left out. -1 for none.
    """
    labels, scores = np.append(ids, rest)[result.labels].astype(np.int32), result.scores
    segments = objects = None
    if rest >= 0:
        scores = np.where(result.labels < 0, np.float32(NO_SCORE), scores)
    if result.panoptic is not None:
        segments = from_panoptic(result.panoptic, ids, rest)
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
    return Found(labels, scores, segments, objects, seconds, tuple(result.meta.get("notes", ())))
