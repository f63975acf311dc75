"""Masks with names, of a data set in the layout of COCO's panoptic annotations; for tools that teach or test names."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ovseg.errors import InputError


@dataclass(frozen=True, eq=False)
class MaskSet:
    """The masks of a data set, read when they are asked for.

    Attributes:
        folder: With ``images/``, ``panoptic/`` and ``panoptic.json``.
        names: Of the classes that the masks have.
        things: Whether each class is one of things.
        classes: Class of each mask.
        places: Name of the picture, name of its map of ids, and id of each mask.
    """

    folder: Path
    names: tuple[str, ...]
    things: tuple[bool, ...]
    classes: tuple[int, ...]
    places: tuple[tuple[str, str, int], ...] = field(repr=False)

    def __len__(self) -> int:
        """Return the number of masks."""
        return len(self.classes)

    def image(self, index: int) -> Tensor:
        """Return the picture (3, H, W) uint8 of a mask."""
        return _picture(self.folder / "images" / self.places[index][0])

    def mask(self, index: int) -> Tensor:
        """Return a mask (H, W) bool."""
        _, file, own = self.places[index]
        return _ids(self.folder / "panoptic" / file) == own

    def weights(self) -> Tensor:
        """Return how often each mask should be drawn (N,): rare classes more often, by the root of their number."""
        classes = torch.tensor(self.classes)
        return classes.bincount(minlength=len(self.names)).float().clamp(min=1).rsqrt()[classes]


@lru_cache(maxsize=512)
def _picture(path: Path) -> Tensor:
    return torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)


@lru_cache(maxsize=512)
def _ids(path: Path) -> Tensor:
    rgb = np.array(Image.open(path).convert("RGB")).astype(np.int64)
    return torch.from_numpy(rgb @ np.array([1, 256, 65536]))


def read_masks(folder: Path, every: bool = False) -> MaskSet:
    """Read which masks a data set has; crowds are left out. With ``every`` all categories are names.

    Raises:
        InputError: There is no ``panoptic.json``, or it is none.
    """
    try:
        found = json.loads((folder / "panoptic.json").read_text(encoding="utf-8"))
        known = {one["id"]: one for one in found["categories"]}
        pictures = {one["id"]: one["file_name"] for one in found["images"]}
        rows = [
            (one["category_id"], (pictures[own["image_id"]], own["file_name"], one["id"]))
            for own in found["annotations"]
            for one in own["segments_info"]
            if not one.get("iscrowd")
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder} has no panoptic annotations ({error}); expected panoptic.json of COCO") from error
    used = sorted(known if every else {category for category, _ in rows})
    order = {category: index for index, category in enumerate(used)}
    return MaskSet(
        folder,
        tuple(known[category]["name"] for category in used),
        tuple(bool(known[category].get("isthing", 1)) for category in used),
        tuple(order[category] for category, _ in rows),
        tuple(place for _, place in rows),
    )
