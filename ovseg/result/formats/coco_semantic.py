"""The classes of all images as one COCO file of annotations."""

from __future__ import annotations

from ovseg.result.coco_files import RegionFile
from ovseg.result.exports import Regions, semantic_regions
from ovseg.result.parts import Result


class CocoSemantic(RegionFile):
    """One annotation for each class that is present in an image."""

    name = "coco-semantic"
    summary = "COCO annotations of all images: for each class its run lengths, or polygons"

    def regions(self, result: Result) -> Regions:
        """Return one region for each class."""
        return semantic_regions(result)
