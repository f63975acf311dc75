"""Panoptic segments and instances as parts of a result."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from ovseg.errors import InputError

_MOST_IDS = 256**3  # what the three bytes of COCO's panoptic PNG can count


@dataclass(frozen=True)
class PanopticSegment:
    """One segment of a panoptic result.

    Attributes:
        id: Its value in the map of ids, from 1.
        class_id: Position of its class in the user's list.
        is_thing: Whether it is one object; all pixels of a class that is no thing are one segment.
        score: Class probability of its query in 0..1, the largest where several queries make it up.
    """

    id: int
    class_id: int
    is_thing: bool
    score: float


@dataclass(frozen=True, eq=False)
class Panoptic:
    """At most one segment for every pixel of an image. Checked when it is made.

    Attributes:
        ids: ``(H, W)`` int32; the id of the segment, 0 = none.
        segments: Those that are present, by ascending id.

    Raises:
        InputError: Ids and segments do not fit together.
    """

    ids: np.ndarray
    segments: tuple[PanopticSegment, ...]

    def __post_init__(self) -> None:
        """Check that the map shows these segments."""
        if self.ids.ndim != 2 or self.ids.dtype != np.int32:
            raise InputError(f"panoptic ids are {self.ids.shape} {self.ids.dtype}; expected (H, W) int32")
        listed = [segment.id for segment in self.segments]
        low, high = int(self.ids.min(initial=0)), int(self.ids.max(initial=0))
        few = 0 <= low and high < self.ids.size  # then counting is many times faster than sorting
        shown = (np.flatnonzero(np.bincount(self.ids.ravel())) if few else np.unique(self.ids)).tolist()
        if [0] * (0 in shown) + listed != shown or (listed and listed[0] < 1) or len(listed) >= _MOST_IDS:
            raise InputError(f"the map shows the segments {shown[:9]} and the list has {listed[:9]}; expected the same")


@dataclass(frozen=True)
class Instance:
    """One object; objects may overlap.

    Attributes:
        class_id: Position of its class in the user's list.
        score: How sure the model is, 0..1.
        area: Pixels.
        bbox: Left, top, width, height in pixels, around the mask.
        rle: The mask as COCO's compressed run lengths: ``size`` (height, width) and ``counts``.
    """

    class_id: int
    score: float
    area: int
    bbox: tuple[int, int, int, int]
    rle: Mapping[str, Any]

    @classmethod
    def from_mask(cls, mask: np.ndarray, class_id: int, score: float) -> Instance:
        """Pack a mask ``(H, W)`` bool."""
        return cls(class_id, score, *pack_masks(mask[None])[0])

    def mask(self) -> np.ndarray:
        """Return the mask ``(H, W)`` bool."""
        from pycocotools import mask as coco_mask

        return coco_mask.decode(dict(self.rle)).astype(bool)


PackedMask: TypeAlias = "tuple[int, tuple[int, int, int, int], dict[str, Any]]"
"""Area, box and run lengths of a mask, as an `Instance` has them."""


def pack_masks(masks: np.ndarray) -> list[PackedMask]:
    """Pack masks ``(N, H, W)`` bool, all at once."""
    from pycocotools import mask as coco_mask

    # Run lengths go down the columns, so each mask is laid out column by column.
    packed = coco_mask.encode(np.ascontiguousarray(masks.transpose(0, 2, 1)).view(np.uint8).T)
    areas, boxes = mask_areas(packed).tolist(), coco_mask.toBbox(packed).astype(int).tolist()
    return [
        (area, (left, top, width, height), {"size": list(one["size"]), "counts": one["counts"].decode("ascii")})
        for one, area, (left, top, width, height) in zip(packed, areas, boxes, strict=True)
    ]


def mask_areas(rles: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Return the pixels of masks as COCO packs them ``(N,)`` uint32.

    With NumPy 2 pycocotools counts no more than 255 masks at a time.
    """
    from pycocotools import mask as coco_mask

    parts = [coco_mask.area(list(rles[start : start + 255])) for start in range(0, len(rles), 255)]
    return np.concatenate([np.zeros(0, np.uint32), *parts])


def check_parts(
    panoptic: Panoptic | None, instances: Sequence[Instance] | None, size: tuple[int, ...], classes: int
) -> None:
    """Refuse segments and objects of another size than the labels, or of classes that do not exist.

    Raises:
        InputError: They do not fit.
    """
    sizes = {tuple(own.rle["size"]) for own in instances or ()} | ({panoptic.ids.shape} if panoptic else set())
    if wrong := sizes - {size}:
        raise InputError(f"segments or objects are of {wrong.pop()}; expected {size} to fit the labels")
    used = {segment.class_id for segment in panoptic.segments} if panoptic else set()
    used |= {own.class_id for own in instances or ()}
    if used and not 0 <= min(used) <= max(used) < classes:
        raise InputError(f"segments or objects have classes {min(used)} to {max(used)}; expected 0 to {classes - 1}")


def from_json(header: Mapping[str, Any], ids: np.ndarray | None) -> dict[str, Any]:
    """Undo `to_json`; ``ids`` is the map of the segments, None where there is none."""
    panoptic, instances = None, None
    if ids is not None:
        panoptic = Panoptic(ids, tuple(PanopticSegment(**segment) for segment in header["panoptic"]))
    if "instances" in header:
        instances = tuple(Instance(**{**own, "bbox": tuple(own["bbox"])}) for own in header["instances"])
    return {"panoptic": panoptic, "instances": instances}


def to_json(panoptic: Panoptic | None, instances: Sequence[Instance] | None) -> dict[str, Any]:
    """Return segments and instances as JSON values, without the map of ids; nothing for what is not there."""
    found: dict[str, Any] = {}
    if panoptic is not None:
        found["panoptic"] = [dataclasses.asdict(segment) for segment in panoptic.segments]
    if instances is not None:
        found["instances"] = [{**dataclasses.asdict(own), "bbox": list(own.bbox)} for own in instances]
    return found
