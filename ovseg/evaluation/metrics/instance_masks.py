"""The objects of an image as run lengths: predictions, COCO's outlines, things of a panoptic image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ovseg.data.dataset import INSTANCE, Dataset, Segments
from ovseg.data.outlines import outline_rle
from ovseg.errors import InputError
from ovseg.result.objects import mask_areas


@dataclass(frozen=True, eq=False)
class InstanceMasks:
    """The objects of one image, masks as run lengths; they may overlap.

    Attributes:
        size: Height and width.
        rles: For each object pycocotools' compressed encoding.
        classes: (N,) int64.
        scores: (N,) float64; ones in the ground truth.
        crowd: (N,) bool; all False in predictions.
        areas: (N,) float64 pixels, which decide what is small, medium and large.
    """

    size: tuple[int, int]
    rles: list[dict[str, Any]]
    classes: np.ndarray
    scores: np.ndarray
    crowd: np.ndarray
    areas: np.ndarray

    @classmethod
    def from_masks(cls, masks: Any, classes: Any, scores: Any) -> InstanceMasks:
        """Encode predictions.

        Args:
            masks: (N, H, W) bool, array or tensor.
            classes: (N,) integers.
            scores: (N,) floats.

        Raises:
            InputError: The numbers of masks, classes and scores differ.
        """
        masks, classes, scores = (np.asarray(a.cpu() if hasattr(a, "cpu") else a) for a in (masks, classes, scores))
        if masks.ndim != 3 or not masks.shape[:1] == classes.shape == scores.shape:
            raise InputError(
                f"got masks {masks.shape}, classes {classes.shape} and scores {scores.shape}; expected (N, H, W) masks "
                "with one class and score each"
            )
        rles = [_encode(mask) for mask in masks]
        none = np.zeros(len(rles), bool)
        return cls(
            masks.shape[1:],
            rles,
            classes.astype(np.int64),
            scores.astype(np.float64),
            none,
            mask_areas(rles).astype(np.float64),
        )

    @classmethod
    def from_segments(cls, segments: Segments, wanted: np.ndarray) -> InstanceMasks:
        """Encode the segments of the classes that are wanted, (K,) bool; the things of a panoptic ground truth."""
        chosen = np.flatnonzero(wanted[segments.classes])
        rles = [_encode(segments.ids == place) for place in chosen]
        classes, crowd = segments.classes[chosen], segments.crowd[chosen]
        return cls(segments.ids.shape, rles, classes, np.ones(len(rles)), crowd, mask_areas(rles).astype(np.float64))

    @classmethod
    def from_annotations(
        cls, annotations: Sequence[dict[str, Any]], size: tuple[int, int], classes: Sequence[int] | np.ndarray
    ) -> InstanceMasks:
        """Take COCO annotations (polygons or run lengths) as they are, with their own areas.

        Args:
            annotations: Each with ``segmentation``.
            size: Height and width of the image.
            classes: Class of each annotation.
        """
        rles = [outline_rle(annotation["segmentation"], size) for annotation in annotations]
        areas = [a.get("area", own) for a, own in zip(annotations, mask_areas(rles), strict=True)]
        crowd = np.array([bool(a.get("iscrowd", 0)) for a in annotations], bool)
        ids = np.asarray(classes, np.int64)
        return cls(size, rles, ids, np.ones(len(rles)), crowd, np.array(areas, np.float64))

    def to_json(self) -> dict[str, Any]:
        """Return JSON values; `from_json` reads them back to the bit."""
        rles = [rle["counts"].decode() if isinstance(rle["counts"], bytes) else rle["counts"] for rle in self.rles]
        lists = {name: getattr(self, name).tolist() for name in ("classes", "scores", "crowd", "areas")}
        return {"size": [int(side) for side in self.size], "rles": rles, **lists}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> InstanceMasks:
        """Read what `to_json` wrote."""
        height, width = values["size"]
        rles = [{"size": [height, width], "counts": counts.encode()} for counts in values["rles"]]
        classes, crowd = np.array(values["classes"], np.int64), np.array(values["crowd"], bool)
        scores, areas = (np.array(values[name], np.float64) for name in ("scores", "areas"))
        return cls((height, width), rles, classes, scores, crowd, areas)

    def __len__(self) -> int:
        return len(self.rles)


def true_instances(dataset: Dataset, record: dict[str, Any], size: tuple[int, int]) -> InstanceMasks:
    """Return the objects of one image: COCO's outlines as they are, overlapping, or the things of a panoptic image.

    Raises:
        InputError: Files are missing or broken.
    """
    if dataset.kind != INSTANCE:
        things = np.array([entry.is_thing for entry in dataset.classes])
        return InstanceMasks.from_segments(dataset.read_segments(record, size), things)
    classes = dataset.remap[np.array([a["category_id"] for a in record["annotations"]], np.int64)]
    kept = [a for a, own in zip(record["annotations"], classes, strict=True) if own >= 0]
    return InstanceMasks.from_annotations(kept, size, classes[classes >= 0])


def _encode(mask: np.ndarray) -> dict[str, Any]:
    from pycocotools import mask as coco_mask

    rle: dict[str, Any] = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return rle
