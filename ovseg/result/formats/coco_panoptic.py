"""The panoptic segments of all images as COCO has them: a folder of pictures of ids, and one JSON beside it."""

from __future__ import annotations

from pathlib import Path

from ovseg.result.coco import category_ids, panoptic_of, panoptic_picture, segments_info
from ovseg.result.coco_files import CocoFile, image_record
from ovseg.result.formats.base import PNG_MARK, Place, Written, png_info
from ovseg.result.parts import Result


class CocoPanoptic(CocoFile):
    """Segments: a picture for each image, and what their ids are."""

    name = "coco-panoptic"
    summary = "COCO panoptic segments: a picture of ids for each image, and one JSON"
    needs = ("panoptic",)

    def files(self, place: Place) -> dict[Path, bytes]:
        """Return the picture."""
        return {self.home(place.folder) / f"{place.name}.png": PNG_MARK}

    def write(self, result: Result, path: Path) -> None:
        """Write the picture.

        Raises:
            InputError: The model gave no segments.
        """
        panoptic_picture(result).save(path, format="PNG", pnginfo=png_info(result))

    def put(self, result: Result, place: Place) -> Written:
        """Write the picture, and return what its ids are.

        Raises:
            InputError: The model gave no segments, or it cannot be written.
        """
        path = next(iter(self.files(place)))
        self.save(result, path)
        segments = segments_info(panoptic_of(result), category_ids(result.classes))
        annotation = {"file_name": f"{place.name}.png", "segments_info": segments}
        return Written(path, {"image": image_record(result, place), "annotations": [annotation]})
