"""What a browser needs to draw an answer: label maps as small PNG files, names, colours, shares."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from ovseg.result.objects import Instance, Panoptic
from ovseg.result.segmentation import Segmentation
from ovseg.vocabulary.colors import Color, spread_colors

SIDE = 1280
"""Pixels of the longer side of what is drawn; labels, corrections and exports have the photograph's own size."""

_OBJECTS = 60  # that are drawn; the others are counted
_QUALITY = 88  # of the JPEG


def shown_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return height and width in which a photograph of a size is drawn."""
    factor = min(1.0, SIDE / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def photo_jpeg(pixels: np.ndarray) -> bytes:
    """Return a photograph (H, W, 3) uint8 as it is drawn."""
    height, width = shown_size((pixels.shape[0], pixels.shape[1]))
    picture = Image.fromarray(pixels)
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BOX)
    file = io.BytesIO()
    picture.save(file, format="JPEG", quality=_QUALITY)
    return file.getvalue()


def data_url(picture: np.ndarray) -> str:
    """Return an array (H, W) or (H, W, 3) uint8 as a PNG in a URL."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG", compress_level=3)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def numbers(ids: np.ndarray, third: np.ndarray | None = None) -> str:
    """Return ids (H, W), 0..65535, as a picture whose red and green are their two bytes.

    Args:
        ids: At any size; of those that are drawn the nearest are taken.
        third: (H, W) in 0..1, for the blue.
    """
    rows, columns = _nearest(ids.shape)
    own = ids[np.ix_(rows, columns)].astype(np.int64)
    blue = np.zeros(own.shape) if third is None else third[np.ix_(rows, columns)].astype(np.float32) * 255
    return data_url(np.stack([own & 255, own >> 8, np.rint(blue)], axis=-1).astype(np.uint8))


def _nearest(size: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    shown = shown_size((size[0], size[1]))
    rows, columns = ((np.arange(new) + 0.5) * old / new for old, new in zip(size, shown, strict=True))
    return rows.astype(int), columns.astype(int)


def side_of(result: Segmentation) -> dict[str, Any]:
    """Return an answer for the page: ``labels`` (0 is no class, else the class id + 1; blue is the score) and names."""
    present = {segment.class_id: segment for segment in result.segments}
    classes = [
        {
            "name": entry.name,
            "synonyms": list(entry.names[1:]),
            "color": list(entry.color),
            "share": present[i].area_fraction if i in present else 0.0,
            "score": present[i].score if i in present else 0.0,
        }
        for i, entry in enumerate(result.classes)
    ]
    return {
        "labels": numbers(result.labels + 1, result.scores),
        "classes": classes,
        "nothing": 1 - sum(segment.area_fraction for segment in present.values()),
        "segments": _segments(result.panoptic, result),
        "objects": _objects(result.instances, result),
        "notes": list(result.meta.get("notes", [])),
        "seconds": result.meta.get("timings", {}).get("seconds", 0.0),
    }


def _segments(panoptic: Panoptic | None, result: Segmentation) -> dict[str, Any] | None:
    if panoptic is None:
        return None
    of_class = [(own.class_id, own.score) for own in panoptic.segments]
    order = {own.id: number for number, own in enumerate(panoptic.segments, 1)}
    table = np.zeros(max([*order, 0]) + 1, dtype=np.int64)
    for own, number in order.items():
        table[own] = number
    return {"map": numbers(table[panoptic.ids]), "list": _named(of_class, result), "more": 0}


def _objects(instances: Sequence[Instance] | None, result: Segmentation) -> dict[str, Any] | None:
    """Paint the surest objects over the others."""
    if instances is None:
        return None
    drawn = [own for own in instances if own.area][:_OBJECTS]
    ids = np.zeros(result.labels.shape, dtype=np.int32)
    for number, own in reversed(list(enumerate(drawn, 1))):
        ids[own.mask()] = number
    named = _named([(own.class_id, own.score) for own in drawn], result)
    return {"map": numbers(ids), "list": named, "more": len(instances) - len(drawn)}


def _named(parts: list[tuple[int, float]], result: Segmentation) -> list[dict[str, Any]]:
    """Return name, score and a colour of its own for each segment or object."""
    names = [f"{result.classes[class_id].name} {number}" for number, (class_id, _) in enumerate(parts, 1)]
    colors: list[Color] = spread_colors(names)
    return [
        {"name": result.classes[class_id].name, "score": score, "color": list(color)}
        for (class_id, score), color in zip(parts, colors, strict=True)
    ]


def difference(one: Segmentation, other: Segmentation) -> dict[str, Any]:
    """Compare two answers for a photograph by the names of their classes.

    Returns:
        ``share`` of the pixels that have another name, 0..1, and ``map``, where they are.
    """
    found = one.compare(other)
    return {"share": found.share, "map": numbers(found.changed.astype(np.int32))}
