"""COCO files of all images of a run, written from what each image left.

A record holds ``image`` (file name and size) and ``annotations`` without their ids. Ids of images come from their
names; annotations are counted from 1, for COCO's evaluator takes an annotation of id 0 for none.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ovseg.result.coco import MADE_BY, MARK, categories_of, category_ids, pack_values
from ovseg.result.exports import Regions, check_tolerance, image_ids, json_list, write_lines
from ovseg.result.formats.base import Export, Place, Record, Written
from ovseg.result.parts import Result
from ovseg.system.values import dump
from ovseg.vocabulary import Vocabulary


class CocoFile(Export):
    """A format that is one COCO file of all images."""

    def shared(self, folder: Path) -> dict[Path, bytes]:
        """Return the JSON."""
        return {folder / f"{self.name}.json": MARK}

    def finish(self, records: Iterable[Record], classes: Vocabulary, folder: Path) -> None:
        """Write the JSON."""
        finish_coco(next(iter(self.shared(folder))), records, classes)


class RegionFile(CocoFile):
    """One whose annotations are regions."""

    def __init__(self, *, polygons: float | None = None) -> None:
        """Choose masks or polygons.

        Args:
            polygons: How far polygons may leave the outline, in pixels; None writes run lengths.

        Raises:
            ConfigError: The tolerance is negative.
        """
        self.polygons = check_tolerance(polygons)

    @abstractmethod
    def regions(self, result: Result) -> Regions:
        """Return what is annotated.

        Raises:
            InputError: The model did not give it.
        """

    def put(self, result: Result, place: Place) -> Written:
        """Return the annotations of an image; errors are those of `regions`."""
        record, notes = region_record(result, place, self.regions(result), self.polygons)
        return Written(next(iter(self.shared(place.folder))), record, notes)


def image_record(result: Result, place: Place) -> dict[str, Any]:
    """Return what COCO says of an image, but for its id."""
    height, width = result.labels.shape
    return {"file_name": place.image, "width": width, "height": height}


def region_record(
    result: Result, place: Place, regions: Regions, polygons: float | None
) -> tuple[Record, tuple[str, ...]]:
    """Return the record of an image whose regions are annotations, and notes.

    Args:
        result: Of the image.
        place: Of the image.
        regions: To be annotated.
        polygons: How far polygons may leave the outline, in pixels; None: compressed run lengths.
    """
    ids, notes = category_ids(result.classes), regions.notes
    base = [
        {"category_id": ids[one.class_id], "area": one.area, "bbox": list(one.bbox), "iscrowd": 0, "score": one.score}
        for one in regions.regions
    ]
    if polygons is None:
        masks = pack_values(regions.ids, [one.id for one in regions.regions])
        annotations = [{**one, "segmentation": rle} for one, rle in zip(base, masks, strict=True)]
    else:
        outlines, lost = regions.outlines(polygons, result.classes)
        notes += lost
        annotations = []
        for one, region in zip(base, regions.regions, strict=True):
            lines = [part.ring().ravel().tolist() for part in outlines.parts[region.id]]
            fit = {} if outlines.overlap[region.id] == 1 else {"polygon_iou": outlines.overlap[region.id]}
            annotations.append({**one, "segmentation": lines, **(_drawn(lines, result) if fit else {}), **fit})
    return {"image": image_record(result, place), "annotations": annotations}, notes


def _drawn(lines: list[list[float]], result: Result) -> dict[str, Any]:
    """Return area and box of polygons."""
    from pycocotools import mask as coco_mask

    mask = coco_mask.merge(coco_mask.frPyObjects(lines, *result.labels.shape))
    return {"area": int(coco_mask.area(mask)), "bbox": coco_mask.toBbox(mask).astype(int).tolist()}


def finish_coco(path: Path, records: Iterable[Record], classes: Vocabulary) -> None:
    """Write a COCO file from the records of all images, one at a time.

    Raises:
        InputError: It cannot be written.
    """
    write_lines(path, _pieces(records, classes))


def _pieces(records: Iterable[Record], classes: Vocabulary) -> Iterator[str]:
    yield f'{{"info": {dump(MADE_BY)},\n"categories": '
    yield from json_list(categories_of(classes))
    yield ',\n"images": '
    yield from json_list({"id": number, **one["image"]} for number, one in _numbered(records))
    yield ',\n"annotations": '
    yield from json_list(_annotations(records))
    yield "\n}\n"


def _annotations(records: Iterable[Record]) -> Iterator[dict[str, Any]]:
    count = 0
    for image, record in _numbered(records):
        for one in record["annotations"]:
            count += 1
            yield {"id": count, "image_id": image, **one}


def _numbered(records: Iterable[Record]) -> Iterator[tuple[int, Record]]:
    return zip(image_ids(one["image"]["file_name"] for one in records), records, strict=True)
