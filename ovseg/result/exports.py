"""What files for other tools show of a result: regions that share no pixel, as masks or polygons, and ids of images."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from ovseg.errors import ConfigError, InputError
from ovseg.result.measures import measure
from ovseg.result.parts import Result
from ovseg.result.polygons import Outlines, find_outlines
from ovseg.system.files import atomic_write
from ovseg.system.values import dump
from ovseg.vocabulary import Vocabulary

MARK = b"made by ovseg"
"""What stands near the start of files of text that we write."""

_ID_DIGITS = 12  # hex digits of the id of an image: 48 bits, which JSON, float64 and int64 hold


@dataclass(frozen=True)
class Region:
    """What a file shows as one object.

    Attributes:
        id: Its value in the map.
        class_id: Position of its class.
        score: How sure the model is, 0..1.
        area: Pixels.
        bbox: Left, top, width, height in pixels.
    """

    id: int
    class_id: int
    score: float
    area: int
    bbox: tuple[int, int, int, int]


@dataclass(frozen=True)
class Regions:
    """Regions that share no pixel.

    Attributes:
        ids: ``(H, W)`` int32; the id of the region, 0 = none.
        regions: Those that are present, by ascending id.
        notes: What was left out.
    """

    ids: np.ndarray
    regions: tuple[Region, ...]
    notes: tuple[str, ...] = ()

    @property
    def classes(self) -> np.ndarray:
        """``(H, W)`` int32; the position of the class, -1 = none."""
        values = np.full(max((one.id for one in self.regions), default=0) + 1, -1, np.int32)
        for one in self.regions:
            values[one.id] = one.class_id
        found: np.ndarray = values[self.ids]
        return found

    def outlines(self, tolerance: float, classes: Vocabulary) -> tuple[Outlines, tuple[str, ...]]:
        """Return the polygons of all regions, and a line on what they lose."""
        found = find_outlines(self.ids, 0, tolerance)
        worst = min(self.regions, key=lambda one: found.overlap[one.id], default=None)
        if worst is None or found.overlap[worst.id] == 1:
            return found, ()
        mean = sum(found.overlap.values()) / len(found.overlap)
        note = (
            f"polygons within {tolerance:g} pixels of the outlines, drawn again: mean IoU {mean:.4f} of "
            f"{len(found.overlap)} regions, the least {found.overlap[worst.id]:.4f} ({classes[worst.class_id].name!r})"
        )
        return found, (note,)


def semantic_regions(result: Result) -> Regions:
    """Return all pixels of each class as a region; the id is the position of the class + 1."""
    regions = [Region(one.class_id + 1, one.class_id, one.score, one.area, one.bbox) for one in result.segments]
    return Regions(result.labels.astype(np.int32) + 1, tuple(regions))


def regions_of(result: Result) -> Regions:
    """Return panoptic segments where the model gives them, else one region for each class."""
    if result.panoptic is None:
        return semantic_regions(result)
    own = {one.id: (one.class_id, one.score) for one in result.panoptic.segments}
    return _measured(result.panoptic.ids, own)


def instance_regions(result: Result) -> Regions:
    """Return objects; a pixel of several belongs to the one that the model is surest of.

    Raises:
        InputError: The model gave no objects.
    """
    if result.instances is None:
        raise InputError("the result has no instances; use a model that gives them, or the format coco-semantic")
    ids, taken = np.zeros(result.labels.shape, np.int32), 0
    ranked = sorted(result.instances, key=lambda one: -one.score)  # stable: of equals the first
    for number, one in enumerate(ranked, start=1):
        mask = one.mask()
        taken += int((mask & (ids > 0)).sum())
        ids[mask & (ids == 0)] = number
    found = _measured(ids, {number: (one.class_id, one.score) for number, one in enumerate(ranked, start=1)})
    notes = []
    if taken:
        notes.append(f"objects overlap: {taken} pixels are shown as those of the surest object alone")
    if gone := len(ranked) - len(found.regions):
        notes.append(f"{gone} of {len(ranked)} objects are left out: surer ones cover them, or they have no pixel")
    return Regions(found.ids, found.regions, tuple(notes))


def _measured(ids: np.ndarray, own: dict[int, tuple[int, float]]) -> Regions:
    """Measure the regions of a map; ``own`` is the class and the score of each."""
    found = measure(ids, np.zeros(ids.shape, np.float32), int(ids.max(initial=0)) + 1)
    return Regions(ids, tuple(Region(i, *own[i], one.area, one.bbox) for i, one in found.items() if i))


def check_tolerance(polygons: float | None) -> float | None:
    """Return a tolerance of polygons.

    Raises:
        ConfigError: It is negative or no number.
    """
    if polygons is not None and not 0 <= polygons < float("inf"):
        raise ConfigError(f"polygons is {polygons}; expected a tolerance in pixels, from 0 (exact)")
    return polygons


def image_ids(names: Iterable[str]) -> Iterator[int]:
    """Yield an id for each image, 1 or more: by its name alone, so that it stays when others come and go.

    In the rare case (one in a million for 10,000 images) that two have the same, the later one gets another.
    """
    seen = {0}
    for name in names:
        text, number = name, 0
        while number in seen:
            digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
            number, text = int(digest[:_ID_DIGITS], 16), f"{text}\0"
        seen.add(number)
        yield number


def write_lines(path: Path, pieces: Iterable[str]) -> None:
    """Write a file of text piece by piece, complete or not at all.

    Raises:
        InputError: It cannot be written.
    """
    with atomic_write(path) as temporary, _text(temporary) as file:
        for piece in pieces:
            file.write(piece)


def _text(path: Path) -> IO[str]:
    return path.open("w", encoding="utf-8", errors="backslashreplace", newline="\n")  # names of files may be any bytes


def keep(path: Path, content: str) -> None:
    """Write a file that is the same for all images, unless it is there already."""
    if not path.is_file() or path.read_text(encoding="utf-8") != content:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_lines(path, [content])


def check_kept(path: Path, content: str, gone: Collection[Path]) -> None:
    """Refuse a folder whose list of classes is another than `keep` would write, unless it will be deleted before.

    Raises:
        InputError: It is.
    """
    if path not in gone and path.exists() and path.read_text(encoding="utf-8") != content:
        raise InputError(f"'{path}' lists other classes, and its labels would change; choose another --output")


def json_list(values: Iterable[Any]) -> Iterator[str]:
    """Yield the text of a JSON list, a line for each value."""
    yield "["
    for number, value in enumerate(values):
        yield f"{',' if number else ''}\n{dump(value)}"
    yield "\n]"
