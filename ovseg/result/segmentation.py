"""The result of segmenting one image: a label for every pixel, with its exports.

Label values, everywhere: the class id is the position of the class in the user's list, from 0; a pixel of no class is
-1 in memory and 65535 in the 16-bit PNG. Ids of the user's own (`Vocabulary.ids`) are written into JSON and COCO files,
and into label maps on request; without them COCO's category id is the class id + 1, for it has no category 0.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ovseg.errors import EnvironmentProblem, InputError
from ovseg.result import coco
from ovseg.result.formats import FORMATS
from ovseg.result.formats.labels import NO_CLASS
from ovseg.result.formats.npz import read_archive
from ovseg.result.formats.report import report
from ovseg.result.measures import Segment, find_segments
from ovseg.result.objects import Instance, Panoptic, check_parts
from ovseg.result.parts import COMPACT
from ovseg.system.registry import build
from ovseg.vocabulary import Vocabulary

if TYPE_CHECKING:
    from PIL import Image

    from ovseg.result.comparison import Comparison

SAVED = {".png": "labels", ".npz": "npz", ".json": "report"}
"""The format that `Segmentation.save` chooses by the suffix."""

_SCORE_SLACK = 1e-3  # a softmax in half precision may end just above 1


@dataclass(frozen=True, eq=False, repr=False)
class Segmentation:
    """A label and a score for every pixel of one image, at its original size. Checked when it is made.

    Attributes:
        labels: ``(H, W)`` int32, or int16 from `COMPACT` pixels on; class ids, -1 = no class.
        scores: ``(H, W)`` float32, or float16 from `COMPACT` pixels on, in 0..1; how sure the model is of each label.
        classes: The vocabulary as the user gave it.
        image: ``(H, W, 3)`` uint8 RGB; the photograph, kept for `overlay`.
        meta: What made this result (model, weights hash, vocabulary hash, background policy, ...); JSON values.
        panoptic: Segments, from models that tell one object of a class from another; None from others.
        instances: Objects, which may overlap, by falling score; None from models that give none.
        class_scores: ``(K, H, W)`` float32 of every class, where they were wanted; large, so None elsewhere.

    Raises:
        InputError: Shapes, dtypes or values do not fit together.
    """

    labels: np.ndarray
    scores: np.ndarray
    classes: Vocabulary
    image: np.ndarray
    meta: dict[str, Any] = field(default_factory=dict)
    panoptic: Panoptic | None = None
    instances: tuple[Instance, ...] | None = None
    class_scores: np.ndarray | None = None

    def __post_init__(self) -> None:
        """Check shapes, dtypes and ranges."""
        shape = self.labels.shape
        whole, real = _dtypes(self.labels, self.scores)
        if self.labels.ndim != 2 or self.labels.size == 0 or self.labels.dtype != whole:
            raise InputError(f"labels are {shape} {self.labels.dtype}; expected (H, W) int32 with at least one pixel")
        for what, array, expected, dtype in (
            ("scores are", self.scores, shape, real),
            ("image is", self.image, (*shape, 3), np.uint8),
        ):
            if array.shape != expected or array.dtype != dtype:
                fits = f"{expected} {np.dtype(dtype)} to fit the labels"
                raise InputError(f"{what} {array.shape} {array.dtype}; expected {fits}")
        low, high = int(self.labels.min()), int(self.labels.max())
        if low < NO_CLASS or high >= len(self.classes):
            raise InputError(f"labels range from {low} to {high}; expected -1 to {len(self.classes) - 1} (class ids)")
        low_score, high_score = float(self.scores.min()), float(self.scores.max())
        if not (low_score >= 0 and high_score <= 1):  # also true for NaN
            raise InputError(f"scores range from {low_score:g} to {high_score:g}; expected finite values in 0..1")
        check_parts(self.panoptic, self.instances, shape, len(self.classes))
        if self.class_scores is not None and self.class_scores.shape != (len(self.classes), *shape):
            raise InputError(f"class scores are {self.class_scores.shape}; expected {(len(self.classes), *shape)}")

    @classmethod
    def from_labels(
        cls,
        labels: np.ndarray,
        scores: np.ndarray,
        vocabulary: Vocabulary,
        image: np.ndarray,
        meta: dict[str, Any] | None = None,
        panoptic: Panoptic | None = None,
        instances: tuple[Instance, ...] | None = None,
        class_scores: np.ndarray | None = None,
    ) -> Segmentation:
        """Make a result from arrays of any fitting dtype.

        Args:
            labels: ``(H, W)`` of any integer dtype; -1 = no class.
            scores: ``(H, W)`` of any float dtype, in 0..1 (rounding of 1e-3 beyond is clipped).
            vocabulary: The classes that the labels count in.
            image: ``(H, W, 3)`` uint8 RGB.
            meta: JSON values to keep with the result.
            panoptic: Segments, if there are any.
            instances: Objects, if there are any.
            class_scores: Of every class ``(K, H, W)``, if they were wanted.

        Raises:
            InputError: Shapes, dtypes or values do not fit together.
        """
        labels, scores = np.asarray(labels), np.asarray(scores)
        if labels.dtype.kind not in "ui" or scores.dtype.kind != "f":
            raise InputError(f"labels are {labels.dtype} and scores {scores.dtype}; expected integers and floats")
        if labels.size and not np.can_cast(labels.dtype, np.int32):  # beyond int32 values would wrap around to others
            limit = np.iinfo(np.int32)
            low, high = int(labels.min()), int(labels.max())
            if low < limit.min or high > limit.max:
                raise InputError(f"labels reach from {low} to {high}; expected -1 (no class) or class ids")
        whole, real = _dtypes(labels, scores)
        scores = np.ascontiguousarray(scores, dtype=real)
        low_score, high_score = (scores.min(), scores.max()) if scores.size else (0, 1)
        if (low_score < 0 or high_score > 1) and low_score >= -_SCORE_SLACK and high_score <= 1 + _SCORE_SLACK:
            scores = scores.clip(0, 1)  # a copy, which scores in range need not
        labels, image, meta = np.ascontiguousarray(labels, dtype=whole), np.ascontiguousarray(image), dict(meta or {})
        if real is np.float16:
            note = f"scores of {labels.size / 1e6:.0f} megapixels are kept in 16 bits, rounded to 0.0005"
            meta["notes"] = list(dict.fromkeys([*meta.get("notes", []), note]))  # an archive has it already
        return cls(labels, scores, vocabulary, image, meta, panoptic, instances, class_scores)

    @functools.cached_property
    def segments(self) -> list[Segment]:
        """One for each class that is present, by ascending class id; measured at first use."""
        return find_segments(self.labels, self.scores, self.classes)

    def __repr__(self) -> str:
        """Say size and content in a line."""
        height, width = self.labels.shape
        biggest = sorted(self.segments, key=lambda segment: -segment.area)[:5]
        content = ", ".join(f"{segment.name} {segment.area_fraction:.0%}" for segment in biggest)
        present = f"{len(self.segments)} of {len(self.classes)} classes"
        return f"Segmentation({width}x{height}, {present}: {content or 'none'})"

    def _repr_html_(self) -> str:
        """Show the overlay with its legend in a notebook, at a size that keeps the notebook small; notes below it."""
        from ovseg.result.notebook import result_html

        return result_html(self, repr(self))

    def compare(self, other: Segmentation) -> Comparison:
        """Compare with another answer for the same photograph, by the names of the classes.

        Raises:
            InputError: They are of different sizes.
        """
        from ovseg.result.comparison import Comparison

        return Comparison(self, other)

    def overlay(self, alpha: float = 0.5, legend: bool | str = True, ids: bool = False) -> Image.Image:
        """Draw the labels over the photograph.

        Args:
            alpha: How strong the colours are: 0 shows the photograph, 1 the bare label map.
            legend: Add a panel with colour, name and share of the largest classes present, or of ``"all"``. Photographs
                under 256 pixels are then enlarged, so that the panel does not dwarf them; without legend the size is
                exactly the photograph's.
            ids: Write the id of each class present into the picture, and before its name in the legend.

        Raises:
            InputError: ``alpha`` is not in 0..1, or there is no such legend.
        """
        from ovseg.result.overlay import draw_overlay  # here, for it needs Pillow

        return draw_overlay(self, alpha, legend, ids)

    def save(self, path: str | os.PathLike[str], **options: Any) -> Path:
        """Write the result; the suffix chooses what: labels (``.png``), everything (``.npz``), a summary (``.json``).

        The PNG is 16 bits a pixel, value = class id, 65535 = no class (`read_label_png`); the npz is read by `load`;
        the JSON is `to_json`. An interrupted writing leaves no half file.

        Args:
            path: Of the file.
            options: Of its format: ``own_ids=True`` for a PNG (and the JSON that speaks of it) whose values are the ids
                of the user's list.

        Returns:
            The path that was written.

        Raises:
            InputError: Unknown suffix, a place that cannot be written to, or more classes or larger ids than the PNG
                can count.
            ConfigError: The format has no such option.
        """
        path = Path(path)
        name = SAVED.get(path.suffix.lower())
        if name is None:
            suffixes = ", ".join(SAVED)
            raise InputError(f"cannot save as '{path.name}'; expected {suffixes}; for pictures use .overlay().save()")
        build(FORMATS, name, options).save(self, path)
        return path

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Segmentation:
        """Read a result that ``save("x.npz")`` wrote; everything comes back bit for bit.

        Raises:
            InputError: The file is missing, damaged, or was not written by `save`.
        """
        return cls.from_labels(**read_archive(path))

    def to_json(self, own_ids: bool = False) -> dict[str, Any]:
        """Summarise the result as JSON values: every class of the vocabulary in the user's order, and the meta data.

        ``id`` of a class is the user's own where the list has ids, else its position; ``label`` is its value in the
        label map, which with ``own_ids`` is the id too.
        """
        return report(self, own_ids)

    def to_coco(self, image_id: int = 0, file_name: str = "", annotation_id: int = 1) -> dict[str, Any]:
        """Export as a COCO dictionary, one annotation for each class that is present.

        Args:
            image_id: Id of the image.
            file_name: The image file as the COCO file shall call it; by default ``meta["image"]``.
            annotation_id: Id of the first annotation; count on from the last one when several images share a file.
                (COCO's own evaluator takes an annotation of id 0 for none, so it starts at 1.)

        Returns:
            ``images`` (one), ``annotations`` (``segmentation`` is a compressed RLE, lossless, with holes and parts;
            ``area`` in pixels, ``bbox`` left, top, width, height, ``iscrowd`` 0, ``score``) and ``categories`` (all
            classes; category id = the user's own, else class id + 1).
        """
        return coco.by_class(self, image_id, file_name, annotation_id)

    def to_coco_instances(self, image_id: int = 0, file_name: str = "", annotation_id: int = 1) -> dict[str, Any]:
        """Export the objects as a COCO dictionary; arguments as `to_coco`.

        Raises:
            InputError: The model gave no objects.
        """
        return coco.by_instance(self, image_id, file_name, annotation_id)

    def to_coco_panoptic(self, image_id: int = 0, file_name: str = "", png_name: str = "") -> dict[str, Any]:
        """Export the segments as a COCO panoptic dictionary; its picture is written by `save_panoptic`.

        Args:
            image_id: Id of the image.
            file_name: As in `to_coco`.
            png_name: The picture as the COCO file shall call it.

        Raises:
            InputError: The model gave no segments.
        """
        return coco.by_segment(self, image_id, file_name, png_name)

    def save_panoptic(self, path: str | os.PathLike[str], image_id: int = 0, file_name: str = "") -> Path:
        """Write COCO's panoptic picture ``x.png`` and, beside it, ``x.json``; each is complete or absent.

        Returns:
            The path of the picture.

        Raises:
            InputError: The model gave no segments, the suffix is another, or the place cannot be written to.
        """
        return coco.save_panoptic(self, Path(path), image_id, file_name)

    def to_supervision(self) -> Any:
        """Export as ``supervision.Detections``: a mask, box, score, class id and name for each class that is present.

        Raises:
            EnvironmentProblem: The package supervision is not installed.
        """
        try:
            import supervision
        except ImportError as error:
            raise EnvironmentProblem("to_supervision() needs a package: run `pip install supervision`") from error
        ids = np.array([segment.class_id for segment in self.segments], dtype=int)
        boxes = np.array([segment.bbox for segment in self.segments], dtype=np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]  # supervision wants the far corner
        return supervision.Detections(
            xyxy=boxes,
            mask=self.labels[None] == ids[:, None, None],
            confidence=np.array([segment.score for segment in self.segments], dtype=np.float32),
            class_id=ids,
            data={"class_name": np.array([segment.name for segment in self.segments], dtype=str)},
        )


def _dtypes(labels: np.ndarray, scores: np.ndarray) -> tuple[type[np.integer[Any]], type[np.floating[Any]]]:
    """Return the dtypes of a result: 32 bits, but 16 where they came so and are so many that memory counts."""
    compact = labels.size >= COMPACT
    return (
        np.int16 if compact and labels.dtype == np.int16 else np.int32,
        np.float16 if compact and scores.dtype == np.float16 else np.float32,
    )
