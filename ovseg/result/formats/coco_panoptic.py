"""The panoptic segments of an image as COCO's picture of ids, and its JSON beside it."""

from __future__ import annotations

from pathlib import Path

from ovseg.result.coco import MARK, panoptic_picture, save_panoptic
from ovseg.result.formats.base import Format
from ovseg.result.parts import Result


class CocoPanoptic(Format):
    """Segments: a picture, and what its ids are."""

    name = "coco_panoptic"
    ending = ".panoptic.png"
    summary = "COCO panoptic segments: a picture of ids, and their JSON"
    beside = (".panoptic.json",)
    needs = ("panoptic",)
    mark = MARK

    def write(self, result: Result, path: Path) -> None:
        """Write the picture alone.

        Raises:
            InputError: The model gave no segments.
        """
        panoptic_picture(result).save(path, format="PNG")

    def save(self, result: Result, path: Path) -> None:
        """Write the picture and then the JSON, each complete or not at all.

        Raises:
            InputError: The model gave no segments, or the place cannot be written to.
        """
        save_panoptic(result, path, 0, "")
