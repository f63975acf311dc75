"""Where labels come from: a model that is run, or files that were written before."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ovseg.contract import LABELS, Words
from ovseg.data.images import LoadedImage
from ovseg.errors import InputError
from ovseg.evaluation.metrics.instance_masks import InstanceMasks
from ovseg.evaluation.metrics.segments import from_panoptic
from ovseg.evaluation.robustness import Condition
from ovseg.evaluation.runs.measures import Found
from ovseg.result.formats.labels import read_label_png
from ovseg.result.segmentation import Segmentation
from ovseg.vocabulary import Vocabulary

if TYPE_CHECKING:
    from ovseg.segmenter import Segmenter

SUFFIXES = (".npz", ".labels.png", ".png")
"""Of saved predictions, in the order in which they are looked for behind the stem of an image."""


class Source(Protocol):
    """Gives labels for images.

    Attributes:
        description: What makes the predictions, as JSON values; equal in all processes of a run.
    """

    description: dict[str, Any]

    def __call__(self, image: LoadedImage, ids: np.ndarray, present: np.ndarray) -> Found:
        """Label an image.

        Args:
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

    def __call__(self, image: LoadedImage, ids: np.ndarray, present: np.ndarray) -> Found:
        """Segment an image; see `Source`."""
        if not len(ids):  # a photograph of void without distractors: there is nothing to ask for
            return Found(np.full(image.pixels.shape[:2], -1, np.int32))
        words = self.whole
        if not np.array_equal(ids, np.arange(len(self.classes))):
            own = Vocabulary(tuple(self.classes[i] for i in ids))
            words = self.segmenter.words(self.condition.vocabulary(own), *self.policy)
        picture = shown(self.condition, image, self.classes, present)
        start = time.perf_counter()
        result = self.segmenter.encode(picture).answer(words, want=self.want)
        seconds = time.perf_counter() - start
        return from_segmentation(result, np.pad(ids, (0, len(result.classes) - len(ids)), constant_values=-1), seconds)


def shown(condition: Condition, image: LoadedImage, classes: Vocabulary, present: np.ndarray) -> Any:
    """Return what a model sees of an image under a condition: the image itself, or changed pixels."""
    if condition.FAMILY == "clean":
        return image
    return condition.image(image.pixels, image.name, classes, present.tolist())


def describe(segmenter: Segmenter, words: Words) -> dict[str, Any]:
    """Return what makes predictions, as JSON values."""
    model = segmenter.model
    return {
        "model": segmenter.name,
        "weights_hash": model.weights_hash,
        "settings": model.settings,
        "background": words.background.policy,
        "templates": words.templates,
        "notes": list(words.notes),
        "device": str(segmenter.device).partition(":")[0],
        "dtype": str(segmenter.dtype).removeprefix("torch."),
    }


class SavedSource:
    """Reads predictions that `ovseg segment`, `Segmentation.save` or another program has written.

    ``STEM.npz`` is what `Segmentation.save` writes; ``STEM.labels.png`` or ``STEM.png`` a picture of class ids (8 or 16
    bits, 65535 no class). Ids count in the vocabulary of the evaluation.
    """

    def __init__(self, folder: Path, classes: Vocabulary) -> None:
        """Take a folder.

        Raises:
            InputError: It does not exist.
        """
        if not folder.is_dir():
            raise InputError(f"folder of predictions '{folder}' does not exist; expected files STEM{SUFFIXES[1]} in it")
        self.folder, self.classes = folder, classes
        unknown = {"weights_hash": "", "settings": {}, "templates": "", "notes": [], "device": "", "dtype": ""}
        self.description = {"model": str(folder), **unknown, "background": ""}

    def __call__(self, image: LoadedImage, ids: np.ndarray, present: np.ndarray) -> Found:
        """Read the prediction of an image; see `Source`."""
        stem = Path(image.name).stem
        found = [path for suffix in SUFFIXES if (path := self.folder / f"{stem}{suffix}").is_file()]
        if not found:
            raise InputError(f"prediction '{self.folder / stem}{SUFFIXES[1]}' is missing; make it, or leave --limit")
        if found[0].suffix == ".npz":
            result = Segmentation.load(found[0])
            if result.classes.names != self.classes.names:
                raise InputError(
                    f"prediction '{found[0]}' has {len(result.classes)} other classes; expected the "
                    f"{len(self.classes)} of the evaluation ({self.classes.names[0]}, ...)"
                )
            return from_segmentation(result, ids, 0.0)
        return Found(self._read_png(found[0]))

    def _read_png(self, path: Path) -> np.ndarray:
        from ovseg.data.dataset import read_label_image

        values, bits = read_label_image(path)
        labels = read_label_png(path) if bits == 16 else values.astype(np.int32)
        if labels.max(initial=-1) >= len(self.classes):
            raise InputError(
                f"prediction '{path}' holds the value {labels.max()}; expected 0 to {len(self.classes) - 1}, or 65535 "
                "for no class"
            )
        return labels


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
