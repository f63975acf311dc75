"""Regions of an image as LabelMe's JSON beside a copy of the image.

LabelMe knows shapes that are masks: a box, whose far corner is the last pixel inside, and a picture of it. Polygons can
be edited, and are written on request: one for each part, with holes joined to the outline; parts of one region have the
same ``group_id``.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

from PIL import Image

from ovseg.result.exports import MARK, Region, Regions, check_tolerance, regions_of
from ovseg.result.formats.base import Export, Place, Written
from ovseg.result.images import check_image, image_file, is_source, put_image
from ovseg.result.parts import Result
from ovseg.system.files import atomic_write
from ovseg.system.values import dump

_INSET = 0.25  # pixels; LabelMe's exporters cut fractions off and let Pillow draw the outline, too
_VERSION = "5.5.0"  # of LabelMe, which reads what earlier ones wrote


class LabelMe(Export):
    """A folder that LabelMe opens."""

    name = "labelme"
    summary = "LabelMe's JSON beside a copy of each image: masks, or polygons"
    uses = ("panoptic",)

    def __init__(self, *, polygons: float | None = None) -> None:
        """Choose masks or polygons; see `ovseg.result.coco_files.RegionFile`."""
        self.polygons = check_tolerance(polygons)

    def files(self, place: Place) -> dict[Path, bytes]:
        """Return the JSON, and the image, unless it lies there already."""
        image = self._image(place)
        return {self._label(place): MARK} | ({} if is_source(image, place) else {image: b""})

    def check_place(self, place: Place) -> None:
        """Refuse to replace images of others."""
        check_image(self._image(place), place, self._label(place))

    def put(self, result: Result, place: Place) -> Written:
        """Write the JSON and the image, each complete or not at all."""
        image, label = self._image(place), self._label(place)
        put_image(result, place, image)
        regions = regions_of(result)
        shapes, notes = self._shapes(result, regions)
        height, width = result.labels.shape
        content = {
            "version": _VERSION,
            "generator": MARK.decode(),
            "flags": {},
            "shapes": shapes,
            "imagePath": image.name,
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
        with atomic_write(label) as temporary:
            temporary.write_text(dump(content, indent=1) + "\n", encoding="utf-8")
        return Written(label, {}, regions.notes + notes)

    def _shapes(self, result: Result, regions: Regions) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
        def shape(one: Region, kind: str, points: list[list[float]], mask: str | None) -> dict[str, Any]:
            entry = result.classes[one.class_id]
            own = {} if entry.id is None else {"class_id": entry.id}  # LabelMe keeps what it does not know
            about = {"group_id": one.id, "description": "", "shape_type": kind, "flags": {}, "mask": mask}
            return {"label": entry.name, "points": points, **about, **own, "score": one.score}

        if self.polygons is None:
            return [shape(one, "mask", *_mask(one, regions)) for one in regions.regions], ()
        outlines, notes = regions.outlines(self.polygons, result.classes)
        return [
            shape(one, "polygon", part.ring(_INSET).tolist(), None)
            for one in regions.regions
            for part in outlines.parts[one.id]
        ], notes

    def _image(self, place: Place) -> Path:
        return image_file(place, self.home(place.folder))

    def _label(self, place: Place) -> Path:
        return self.home(place.folder) / f"{place.name}.json"


def _mask(one: Region, regions: Regions) -> tuple[list[list[float]], str]:
    """Return the box of a region and the picture of it: a PNG of 1 bit in base64."""
    left, top, width, height = one.bbox
    mask = regions.ids[top : top + height, left : left + width] == one.id
    file = io.BytesIO()
    Image.fromarray(mask).save(file, format="PNG")
    points: list[list[float]] = [[left, top], [left + width - 1, top + height - 1]]
    return points, base64.b64encode(file.getvalue()).decode("ascii")
