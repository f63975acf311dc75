"""The objects of all images as one COCO file of annotations."""

from __future__ import annotations

from ovseg.result.coco_files import RegionFile
from ovseg.result.exports import Regions, instance_regions
from ovseg.result.parts import Result


class CocoInstance(RegionFile):
    """One annotation for each object. Where objects overlap, a pixel belongs to the surest."""

    name = "coco-instance"
    summary = "COCO annotations of all images: for each object its run lengths, or polygons"
    needs = ("instances",)

    def regions(self, result: Result) -> Regions:
        """Return the objects.

        Raises:
            InputError: The model gave none.
        """
        return instance_regions(result)
