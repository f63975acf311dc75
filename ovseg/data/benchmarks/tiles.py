"""Photographs that are too large to be evaluated whole: cut into tiles, with their labels, once."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ovseg.data.benchmarks.base import Decoder, Place
from ovseg.data.benchmarks.labels import LabelSplit, converted, holds, in_threads, list_stems, write_labels
from ovseg.data.benchmarks.manifest import read_manifest
from ovseg.data.dataset import SEMANTIC, VOID, Dataset, identity_lookup
from ovseg.data.images import read_image
from ovseg.errors import InputError
from ovseg.system.files import atomic_write

SIDE = 1024


class TiledSplit(LabelSplit):
    """Images with label images, cut into tiles of 1024 x 1024 pixels side by side.

    Tiles at the right and lower edge are filled up with black, which is void in the labels. `count` counts tiles. They
    lie as PNGs in ``ROOT/ovseg/NAME/images`` and ``labels``, numbered by rows behind the name of their photograph.
    """

    def converts(self, place: Place) -> bool:
        """Tiles always have to be cut."""
        return True

    def convert(self, place: Place) -> dict[str, str]:
        """Cut all, and write what is not there yet; tiles of photographs that are gone go too; see `Split.convert`."""
        layout = self.layout(place)
        if layout.rule is None:
            raise TypeError(f"{place.name}: the layout of tiles has no rule; give one that reads its labels")
        decode, count = layout.rule(place, layout.labels), len(place.classes())
        stems = list_stems(place.folder, layout)[0]
        work = partial(_cut, place, layout.images, decode, count)
        done = in_threads(work, stems, place.name)
        made = {name for names, _ in done for name in names}
        for path in (place.made / "labels").rglob("*.png"):
            if path.relative_to(place.made / "labels").with_suffix("").as_posix() not in made:
                path.unlink()
        return {stem: problem for stem, (_, problem) in zip(stems, done, strict=True) if problem}

    def outdated(self, place: Place, every: bool) -> dict[str, str]:
        """Compare nothing: tiles are cut anew by each `prepare`."""
        return {}

    def read(self, place: Place) -> Dataset:
        """List the tiles; see `Split.read`."""
        classes, manifest = place.classes(), read_manifest(place)
        problems: list[str] = []
        if manifest and manifest["complete"]:
            names = sorted(manifest["files"])
        else:
            problems = [] if place.subset else list_stems(place.folder, self.layout(place))[1]
            found = (place.made / "labels").rglob("*.png")
            names = sorted(path.relative_to(place.made / "labels").with_suffix("").as_posix() for path in found)
        records: list[dict[str, Any]] = [
            {
                "file_name": str(_image(place, name)),
                "image_id": name,
                "sem_seg_file_name": str(converted(place, name)),
            }
            for name in names
        ]
        remap = np.arange(len(classes), dtype=np.int32)
        lookup, root = identity_lookup(len(classes)), str(place.made / "images")
        return Dataset(place.name, classes, SEMANTIC, records, lookup, remap, tuple(problems), root=root)


def _image(place: Place, name: str) -> Path:
    return place.made / "images" / f"{name}.png"


def _cut(place: Place, images: str, decode: Decoder, count: int, stem: str) -> tuple[list[str], str]:
    """Write the tiles of a photograph, but those that are there; return their names and what went wrong."""
    path = place.folder / images.format(stem)
    try:
        pixels, ids = read_image(path).pixels, decode(stem)
    except InputError as error:
        return [], str(error)
    height, width = pixels.shape[:2]
    if ids.shape != (height, width):
        size = f"{ids.shape[1]}x{ids.shape[0]}"
        return [], f"label of '{path}' is {size} pixels, the image {width}x{height}; fetch it again"
    names = []
    for number, (y, x) in enumerate((y, x) for y in range(0, height, SIDE) for x in range(0, width, SIDE)):
        name = f"{stem}_{number}"
        names.append(name)
        for folder in {_image(place, name).parent, converted(place, name).parent}:
            folder.mkdir(parents=True, exist_ok=True)
        tile, label = _fill(pixels[y : y + SIDE, x : x + SIDE], 0), _fill(ids[y : y + SIDE, x : x + SIDE], VOID)
        if not _shows(_image(place, name), tile):
            with atomic_write(_image(place, name)) as temporary:
                Image.fromarray(tile).save(temporary, format="PNG")
        if not holds(converted(place, name), label, count):
            write_labels(converted(place, name), label, count)
    return names, ""


def _shows(path: Path, pixels: np.ndarray) -> bool:
    """Whether a picture has just these pixels."""
    try:
        return path.is_file() and np.array_equal(read_image(path).pixels, pixels)
    except InputError:
        return False


def _fill(tile: np.ndarray, value: int) -> np.ndarray:
    """Fill a tile (h, w, ...) up at its right and lower edge."""
    missing = [(0, SIDE - side) for side in tile.shape[:2]] + [(0, 0)] * (tile.ndim - 2)
    return np.pad(tile, missing, constant_values=value)
