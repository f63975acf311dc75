"""Results made tidy before they are written: unsure pixels, specks and holes. All formats then show the same."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ovseg.errors import ConfigError
from ovseg.result.components import fill_holes, sieve
from ovseg.result.formats.labels import NO_CLASS
from ovseg.result.objects import Instance, Panoptic
from ovseg.result.segmentation import Segmentation


@dataclass(frozen=True)
class Cleaning:
    """What is done to a result, in this order.

    Attributes:
        min_score: Pixels whose score is lower belong to no class; segments and objects whose score is lower are left
            out. 0..1.
        min_area: Connected regions of fewer pixels become part of the neighbour with which they share the longest
            border ("no class" is one, too); such parts of objects are left out. Pixels, or a share of the image as in
            ``0.1%``.
        fill_holes: Pixels of no class that one class surrounds get that class; holes of an object that show no other
            object become part of it.

    Raises:
        ConfigError: A value is out of its range or no number.
    """

    min_score: float = 0.0
    min_area: int | str = 0
    fill_holes: bool = False

    def __post_init__(self) -> None:
        """Check the values."""
        if not 0 <= self.min_score <= 1:
            raise ConfigError(f"min_score is {self.min_score}; expected a score in 0..1")
        self.pixels(1)

    def __bool__(self) -> bool:
        """Tell whether anything is to be done."""
        return self != Cleaning() and (self.min_score > 0 or self.fill_holes or self.pixels(10**9) > 0)

    def pixels(self, image: int) -> int:
        """Return how many pixels a region has at least, in an image of so many.

        Raises:
            ConfigError: It is no number of pixels and no percentage.
        """
        text = str(self.min_area).strip()
        share = text.endswith("%")
        try:
            value = float(text[:-1]) / 100 if share else int(text)
        except ValueError:
            value = -1
        if not (0 <= value <= 1 if share else value >= 0):
            raise ConfigError(f"min_area is {text!r}; expected a number of pixels such as 50, or a share such as 0.1%")
        return math.ceil(value * image) if share else int(value)

    def __call__(self, result: Segmentation) -> Segmentation:
        """Return the result made tidy; what was done stands in its notes and in ``meta["cleaning"]``."""
        if not self:
            return result
        least = self.pixels(result.labels.size)
        labels, said = self._tidy(result.labels, NO_CLASS, result.scores < self.min_score, least)
        panoptic = result.panoptic and self._segments(result.panoptic, least)
        instances = None if result.instances is None else self._objects(result.instances, least)
        if result.panoptic and panoptic:
            said |= _left_out("segments", len(result.panoptic.segments), len(panoptic.segments))
        if result.instances and instances is not None:
            said |= _left_out("objects", len(result.instances), len(instances))
        done = {"min_score": self.min_score, "min_area": least, "fill_holes": self.fill_holes}
        meta = {**result.meta, "cleaning": done}
        if said:
            meta["notes"] = [*result.meta.get("notes", []), f"cleaned: {', '.join(said)}"]
        return dataclasses.replace(result, labels=labels, panoptic=panoptic, instances=instances, meta=meta)

    def _tidy(self, ids: np.ndarray, void: int, unsure: np.ndarray, least: int) -> tuple[np.ndarray, dict[str, int]]:
        """Clean a map; return it with what was done."""
        said: dict[str, int] = {}
        unsure = unsure & (ids != void)
        if count := int(unsure.sum()):
            ids = np.where(unsure, np.array(void, ids.dtype), ids)
            said[f"{count} pixels with a score under {self.min_score:g} have no class"] = count
        if least > 1:
            ids, count = sieve(ids, least, void)
            if count:
                said[f"{count} regions under {least} pixels given to their neighbours"] = count
        if self.fill_holes:
            ids, count = fill_holes(ids, void)
            if count:
                said[f"{count} holes filled"] = count
        return ids, said

    def _segments(self, panoptic: Panoptic, least: int) -> Panoptic:
        unsure = [segment.id for segment in panoptic.segments if segment.score < self.min_score]
        ids, _ = self._tidy(panoptic.ids, 0, np.isin(panoptic.ids, unsure), least)
        present = {*np.unique(ids).tolist()}
        return Panoptic(ids, tuple(segment for segment in panoptic.segments if segment.id in present))

    def _objects(self, instances: Sequence[Instance], least: int) -> tuple[Instance, ...]:
        sure = [own for own in instances if own.score >= self.min_score]
        if least <= 1 and not self.fill_holes:
            return tuple(sure)
        masks = [_without_specks(own.mask(), least) for own in sure]
        if self.fill_holes and masks:
            covered = np.logical_or.reduce(masks)
            masks = [mask | (fill_holes(mask.astype(np.int8), 0)[0].astype(bool) & ~covered) for mask in masks]
        pairs = zip(sure, masks, strict=True)
        return tuple(Instance.from_mask(mask, own.class_id, own.score) for own, mask in pairs if mask.any())


def _left_out(what: str, before: int, after: int) -> dict[str, int]:
    return {f"{before - after} of {before} {what} left out": before - after} if after < before else {}


def _without_specks(mask: np.ndarray, least: int) -> np.ndarray:
    """Leave connected parts of fewer pixels out of a mask ``(H, W)`` bool."""
    import cv2

    _, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    return mask & (stats[:, cv2.CC_STAT_AREA] >= least)[parts]
