"""Regions of all images as pre-annotations of Label Studio: tasks, the set-up of the labels, and copies of the images.

Brush masks have Label Studio's own encoding (that of the JavaScript package ``@thi.ng/rle-pack``): the bits of a stream
of bytes R, G, B, A of each pixel, row by row.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np

from ovseg.result.exports import MARK, Regions, json_list, keep, regions_of, write_lines
from ovseg.result.formats.base import Export, Place, Record, Written
from ovseg.result.images import check_image, image_file, is_source, put_image
from ovseg.result.parts import Result
from ovseg.system.values import short_hash
from ovseg.vocabulary import Vocabulary

_SIZES = (3, 4, 8, 16)
"""Bits of the lengths of runs; two bits say which."""
_SHOWN = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")
"""What every browser shows, as it is called."""


class LabelStudio(Export):
    """Tasks with predictions."""

    name = "label-studio"
    summary = "Label Studio: tasks.json with brush masks, config.xml and images/"
    uses = ("panoptic",)

    def files(self, place: Place) -> dict[Path, bytes]:
        """Return the image, unless it lies there already."""
        image = self._image(place)
        return {} if is_source(image, place) else {image: b""}

    def shared(self, folder: Path) -> dict[Path, bytes]:
        """Return tasks and set-up."""
        return {self.home(folder) / "tasks.json": MARK, self.home(folder) / "config.xml": MARK}

    def check_place(self, place: Place) -> None:
        """Refuse to replace images of others."""
        check_image(self._image(place), place, *self.shared(place.folder))

    def put(self, result: Result, place: Place) -> Written:
        """Write the image, and return its task."""
        image, tasks = self._image(place), next(iter(self.shared(place.folder)))
        put_image(result, place, image)
        regions = regions_of(result)
        found = [self._region(result, place, regions, number) for number in range(len(regions.regions))]
        path = image.relative_to(self.home(place.folder)).as_posix()
        prediction = {
            "model_version": str(result.meta.get("model", "ovseg")),
            "score": sum(one.score * one.area for one in regions.regions) / result.labels.size,
            "result": found,
        }
        address = f"/data/local-files/?d={quote(path, errors='surrogateescape')}"
        task = {"data": {"made_by": MARK.decode(), "image": address}, "predictions": [prediction]}
        return Written(tasks, {"task": task}, regions.notes)

    def finish(self, records: Iterable[Record], classes: Vocabulary, folder: Path) -> None:
        """Write tasks and set-up."""
        tasks, config = self.shared(folder)
        write_lines(tasks, json_list(one["task"] for one in records))
        keep(config, config_xml(classes))

    def _region(self, result: Result, place: Place, regions: Regions, number: int) -> dict[str, Any]:
        one = regions.regions[number]
        entry, (height, width) = result.classes[one.class_id], result.labels.shape
        value = {"format": "rle", "rle": brush(regions.ids == one.id), "brushlabels": [entry.name]}
        return {
            "id": short_hash(f"{place.name}\0{one.id}\0{entry.name}")[:10],
            "type": "brushlabels",
            "from_name": "label",
            "to_name": "image",
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "value": value,
            "score": one.score,
            **({} if entry.id is None else {"meta": {"class_id": entry.id}}),
        }

    def _image(self, place: Place) -> Path:
        return image_file(place, self.home(place.folder) / "images", _SHOWN)


def config_xml(classes: Vocabulary) -> str:
    """Return the set-up of a project: the labels with their colours."""
    labels = "".join(
        f'    <Label value={quoteattr(entry.name)} background="#{bytes(entry.color).hex()}"/>\n' for entry in classes
    )
    return (
        f"<!-- {MARK.decode()} -->\n<View>\n"
        '  <Image name="image" value="$image" zoom="true"/>\n'
        f'  <BrushLabels name="label" toName="image">\n{labels}  </BrushLabels>\n</View>\n'
    )


def brush(mask: np.ndarray) -> list[int]:
    """Pack a mask ``(H, W)`` bool as Label Studio does; return bytes.

    32 bits with the number of values, 5 with the bits of one - 1, four times 4 with the bits of a length - 1; then each
    run: 1 (it is a run), 2 bits with the size of its length, the length - 1, and the value in 8 bits.
    """
    flat = mask.ravel()
    starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
    lengths = 4 * np.diff(starts, append=flat.size)  # four bytes a pixel
    most = 1 << _SIZES[-1]
    pieces = -(-lengths // most)
    values = np.repeat(flat[starts], pieces)
    cut = np.full(len(values), most)
    cut[np.cumsum(pieces) - 1] = lengths - (pieces - 1) * most
    size = np.searchsorted(np.array([1 << bits for bits in _SIZES]), cut)
    width = np.array(_SIZES)[size]
    # One number for each run: a one, its size, its length, its value.
    numbers = ((((4 | size) << width) | (cut - 1)) << 8) | np.where(values, 255, 0)
    head = [(4 * flat.size, 32), (7, 5), *((bits - 1, 4) for bits in _SIZES)]
    numbers = np.concatenate([[number for number, _ in head], numbers]).astype(np.int64)
    widths = np.concatenate([[bits for _, bits in head], width + 11])
    ends = np.cumsum(widths)
    last = np.repeat(ends, widths) - 1 - np.arange(ends[-1])  # how far each bit is from the end of its number
    bits = (np.repeat(numbers, widths) >> last) & 1
    found: list[int] = np.packbits(bits.astype(np.uint8)).tolist()
    return found
