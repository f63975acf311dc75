"""Images and polygons of a run as Ultralytics trains on them: ``images/``, ``labels/`` of text, ``data.yaml``.

A line of a label is the number of a class and the x and y of the corners of one polygon, as shares of the width and
the height. A line holds neither holes nor parts: holes are joined to the outline by a bridge without width, and each
part is a line of its own.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import yaml

from ovseg.errors import InputError
from ovseg.result.exports import MARK, check_kept, check_tolerance, keep, regions_of, write_lines
from ovseg.result.formats.base import Export, Place, Written
from ovseg.result.images import check_image, image_file, is_source, put_image
from ovseg.result.parts import Result
from ovseg.vocabulary import Vocabulary

_DATA = "data.yaml"
_INSET = 0.25  # pixels; Ultralytics cuts fractions off and lets OpenCV draw the outline, too
_READ = (".bmp", ".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff", ".webp")  # other images Ultralytics leaves out
_DIGITS = 9  # behind the point of a share: a thousandth of a pixel in images of a million


class YoloSeg(Export):
    """A data set of polygons."""

    name = "yolo-seg"
    summary = "images/, labels/ of polygons and data.yaml, as Ultralytics trains on them"
    uses = ("panoptic",)

    def __init__(self, *, polygons: float | None = None) -> None:
        """Choose how exact polygons are; see `ovseg.result.coco_files.RegionFile`. None is 0: exact."""
        self.polygons = check_tolerance(polygons) or 0.0

    def check(self, classes: Vocabulary, folder: Path, gone: Collection[Path] = ()) -> None:
        """Refuse a folder whose numbers are those of other classes."""
        check_kept(self.home(folder) / _DATA, data_yaml(classes), gone)

    def files(self, place: Place) -> dict[Path, bytes]:
        """Return the label, which is replaced only in a folder of ours, and the image, unless it lies there already."""
        image = self._image(place)
        return {self._label(place): b""} | ({} if is_source(image, place) else {image: b""})

    def shared(self, folder: Path) -> dict[Path, bytes]:
        """Return the list of classes."""
        return {self.home(folder) / _DATA: MARK}

    def check_place(self, place: Place) -> None:
        """Refuse to replace what others have made: labels in a folder without our ``data.yaml``, and images."""
        data, label = self.home(place.folder) / _DATA, self._label(place)
        ours = data.is_file() and MARK in data.read_bytes()[:400]
        if (label.exists() or data.exists()) and not ours:
            there = label if label.exists() else data
            raise InputError(f"'{there}' is no result of ovseg and would be overwritten; choose another --output")
        if not label.exists():
            check_image(self._image(place), place)

    def put(self, result: Result, place: Place) -> Written:
        """Write the label, the image and the classes, each complete or not at all."""
        keep(self.home(place.folder) / _DATA, data_yaml(result.classes))
        put_image(result, place, self._image(place))
        regions, label = regions_of(result), self._label(place)
        outlines, notes = regions.outlines(self.polygons, result.classes)
        height, width = result.labels.shape
        write_lines(
            label,
            (
                f"{one.class_id} {_shares(part.ring(_INSET).tolist(), width, height)}\n"
                for one in regions.regions
                for part in outlines.parts[one.id]
            ),
        )
        if result.classes.ids not in (None, list(range(len(result.classes)))):
            notes += (f"yolo-seg: labels count classes from 0; {_DATA} has the ids of the list",)
        return Written(label, {}, regions.notes + notes)

    def _image(self, place: Place) -> Path:
        return image_file(place, self.home(place.folder) / "images", _READ)

    def _label(self, place: Place) -> Path:
        """Return where Ultralytics looks for the label: the last folder called images is called labels."""
        before, _, after = f"/images/{place.name}".rpartition("/images/")
        return self.home(place.folder) / f"{before}/labels/{after}.txt".lstrip("/")


def data_yaml(classes: Vocabulary) -> str:
    """Return the file that lists the classes: by their places from 0, and the ids of the user's list beside them."""
    data = {"train": "images", "val": "images", "nc": len(classes), "names": dict(enumerate(classes.names))}
    if classes.ids is not None:
        data["ids"] = dict(enumerate(classes.ids))
    text = yaml.safe_dump(data, allow_unicode=True, sort_keys=False, width=10**6)
    return (
        f"# {MARK.decode()}; numbers of labels are places in the list, ids (if there are any) those of the list\n{text}"
    )


def _shares(corners: list[list[float]], width: int, height: int) -> str:
    return " ".join(f"{_share(x, width)} {_share(y, height)}" for x, y in corners)


def _share(value: float, whole: int) -> str:
    return f"{value / whole:.{_DIGITS}f}".rstrip("0").rstrip(".")
