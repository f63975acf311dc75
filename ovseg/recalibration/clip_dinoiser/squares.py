"""Random squares of the photographs of a folder, with class-agnostic masks where there are some; for training."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ovseg.data.images import IMAGE_SUFFIXES, read_image
from ovseg.data.preprocessing import SizeRule
from ovseg.errors import InputError


class Pictures:
    """Pictures of a folder, with their segments where a teacher wants masks."""

    def __init__(self, folder: Path, masks: bool, crop: int) -> None:
        """List them.

        Raises:
            InputError: There is none, or the annotations are missing or broken.
        """
        self.size_rule, self.crop = SizeRule(crop, sys.maxsize, minimum=crop), crop
        self.files, self.things = read_panoptic(folder) if masks else (list_images(folder), [])

    def __len__(self) -> int:
        """Return their number."""
        return len(self.files)

    def draw(self, index: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Cut a random square out of a picture, perhaps mirrored, darker or brighter.

        Returns:
            RGB (3, S, S) in 0..1; segments (S, S) int64, from 0; objectness (1, S, S) in 0..1. Without masks the two
            are 0.
        """
        image, png = self.files[index]
        pixels = self.size_rule(read_image(image).pixels)
        segments, objects = torch.zeros(2, *pixels.shape[1:], dtype=torch.long)
        if png is not None:
            rgb = np.asarray(Image.open(png).convert("RGB")).astype(np.int64)
            ids = torch.from_numpy(rgb @ np.array([1, 256, 65536]))
            ids = F.interpolate(ids[None, None].double(), pixels.shape[1:], mode="nearest")[0, 0].long()
            objects = torch.isin(ids, torch.tensor(self.things[index], dtype=torch.long)).long()
            segments = ids.unique(return_inverse=True)[1]
        top, left = (int(torch.randint(n - self.crop + 1, (), generator=generator)) for n in pixels.shape[1:])
        mirror, light = torch.rand(2, generator=generator).tolist()
        both = torch.cat([pixels, segments[None], objects[None]])
        both = both[:, top : top + self.crop, left : left + self.crop]
        both = both.flip(-1) if mirror < 0.5 else both
        return (both[:3] / 255 * (0.5 + light)).clamp(max=1), both[3], both[4:].float()


def list_images(folder: Path) -> list[tuple[Path, Path | None]]:
    """Return all image files below a folder, in the form of `read_panoptic`."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        raise InputError(f"no images below '{folder}'; expected a folder of photographs")
    return [(path, None) for path in found]


def read_panoptic(folder: Path) -> tuple[list[tuple[Path, Path | None]], list[list[int]]]:
    """Read a split in the format of Scenes: images/, panoptic/ and panoptic.json.

    Returns:
        (image, png of its segments) files, and the ids of the segments of each image that are things.
    """
    path = folder / "panoptic.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        names = {image["id"]: image["file_name"] for image in data["images"]}
        things = {category["id"] for category in data["categories"] if category["isthing"]}
        entries = data["annotations"]
        files: list[tuple[Path, Path | None]] = [
            (folder / "images" / names[one["image_id"]], folder / "panoptic" / one["file_name"]) for one in entries
        ]
        objects = [[s["id"] for s in one["segments_info"] if s["category_id"] in things] for one in entries]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"cannot read '{path}' ({error}); masks need panoptic.json, images/ and panoptic/ as "
            "`ovseg datasets scenes` writes them"
        ) from error
    if not files:
        raise InputError(f"'{path}' annotates no image; make it anew with `ovseg datasets scenes`")
    return files, objects
