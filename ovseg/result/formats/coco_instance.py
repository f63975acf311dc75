"""The objects of all images as one COCO file of annotations."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ovseg.result.coco import MARK
from ovseg.result.coco_files import finish_coco, region_record
from ovseg.result.exports import check_tolerance, instance_regions
from ovseg.result.formats.base import Export, Place, Record, Written
from ovseg.result.parts import Result
from ovseg.vocabulary import Vocabulary


class CocoInstance(Export):
    """One annotation for each object. Where objects overlap, a pixel belongs to the surest."""

    name = "coco-instance"
    summary = "COCO annotations of all images: for each object its run lengths, or polygons"
    needs = ("instances",)

    def __init__(self, *, polygons: float | None = None) -> None:
        """Choose masks or polygons; see `ovseg.result.formats.coco_semantic.CocoSemantic`."""
        self.polygons = check_tolerance(polygons)

    def shared(self, folder: Path) -> dict[Path, bytes]:
        """Return the JSON."""
        return {folder / f"{self.name}.json": MARK}

    def put(self, result: Result, place: Place) -> Written:
        """Return the annotations of an image.

        Raises:
            InputError: The model gave no objects.
        """
        record, notes = region_record(result, place, instance_regions(result), self.polygons)
        return Written(next(iter(self.shared(place.folder))), record, notes)

    def finish(self, records: Iterable[Record], classes: Vocabulary, folder: Path) -> None:
        """Write the JSON."""
        finish_coco(next(iter(self.shared(folder))), records, classes)
