"""Regions of all images as one XML of the format "CVAT for images 1.1".

A mask is cut to its box; its run lengths go row by row and begin with what is outside. Polygons are written on request:
one for each part, with holes joined to the outline; parts of one region have the same ``group_id``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from ovseg.result.exports import MARK, Region, check_tolerance, regions_of, write_lines
from ovseg.result.formats.base import Export, Place, Record, Written
from ovseg.result.parts import Result
from ovseg.vocabulary import Vocabulary

_FOREIGN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Cvat(Export):
    """One file, to be uploaded to a task that has the images."""

    name = "cvat"
    summary = "CVAT for images 1.1: one XML with the masks, or polygons, of all images"
    uses = ("panoptic",)

    def __init__(self, *, polygons: float | None = None) -> None:
        """Choose masks or polygons; see `ovseg.result.coco_files.RegionFile`."""
        self.polygons = check_tolerance(polygons)

    def shared(self, folder: Path) -> dict[Path, bytes]:
        """Return the XML."""
        return {folder / f"{self.name}.xml": MARK}

    def put(self, result: Result, place: Place) -> Written:
        """Return the shapes of an image."""
        regions, names = regions_of(result), result.classes.names
        height, width = result.labels.shape
        head, notes = f'width="{width}" height="{height}"', regions.notes
        if self.polygons is None:
            shapes = [_mask(one, names[one.class_id], regions.ids) for one in regions.regions]
        else:
            outlines, lost = regions.outlines(self.polygons, result.classes)
            notes += lost
            shapes = [
                _polygon(part.ring(), names[one.class_id], one.id)
                for one in regions.regions
                for part in outlines.parts[one.id]
            ]
        record = {"name": place.image, "size": head, "shapes": shapes}
        return Written(next(iter(self.shared(place.folder))), record, notes)

    def finish(self, records: Iterable[Record], classes: Vocabulary, folder: Path) -> None:
        """Write the XML."""
        write_lines(next(iter(self.shared(folder))), _pieces(records, classes))


def _mask(one: Region, label: str, ids: np.ndarray) -> str:
    left, top, width, height = one.bbox
    flat = (ids[top : top + height, left : left + width] == one.id).ravel()
    turns = np.flatnonzero(np.diff(flat, prepend=False))  # a run of none comes first, if only of length 0
    runs = np.diff(turns, prepend=0, append=flat.size)
    return (
        f'<mask label={quoteattr(label)} source="auto" occluded="0" rle="{", ".join(map(str, runs.tolist()))}" '
        f'left="{left}" top="{top}" width="{width}" height="{height}" z_order="0"></mask>'
    )


def _polygon(ring: np.ndarray, label: str, group: int) -> str:
    points = ";".join(f"{x},{y}" for x, y in ring.tolist())
    return (
        f'<polygon label={quoteattr(label)} source="auto" occluded="0" points="{points}" z_order="0" '
        f'group_id="{group}"></polygon>'
    )


def _pieces(records: Iterable[Record], classes: Vocabulary) -> Iterator[str]:
    yield f'<?xml version="1.0" encoding="utf-8"?>\n<!-- {MARK.decode()} -->\n<annotations>\n<version>1.1</version>\n'
    yield f"<meta><task><size>{sum(1 for _ in records)}</size><mode>annotation</mode><labels>\n"
    for entry in classes:
        own = "" if entry.id is None else f"<id>{entry.id}</id>"
        color = f"<color>#{bytes(entry.color).hex()}</color>"
        yield f"<label>{own}<name>{escape(entry.name)}</name>{color}<type>any</type><attributes></attributes></label>\n"
    yield "</labels></task></meta>\n"
    for number, one in enumerate(records):
        yield f'<image id="{number}" name={quoteattr(_clean(one["name"]))} {one["size"]}>\n'
        yield from (f"{shape}\n" for shape in one["shapes"])
        yield "</image>\n"
    yield "</annotations>\n"


def _clean(name: str) -> str:
    """Write letters that XML cannot hold, which names of files may have, as escapes."""
    return _FOREIGN.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), name)
