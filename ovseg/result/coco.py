"""How COCO writes results: by class, by object, and as segments with their picture.

Category ids are those that the user's list gives to its classes. Where it gives none they are the position of the class
+ 1, for COCO has no category 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ovseg.errors import InputError
from ovseg.result.measures import measure
from ovseg.result.objects import Panoptic
from ovseg.result.parts import Result
from ovseg.system.files import atomic_write
from ovseg.system.values import dump
from ovseg.vocabulary import Vocabulary

if TYPE_CHECKING:
    from PIL import Image

MARK = b'"made by ovseg"'
MADE_BY = {"description": "made by ovseg"}
"""``info`` of COCO files that we write; by the `MARK` in it they are told from those of others."""

_ROWS = 256  # of a mask that are laid out at a time


def by_class(result: Result, image_id: int, file_name: str, annotation_id: int) -> dict[str, Any]:
    """Return a COCO dictionary with one annotation for each class that is present; see `Segmentation.to_coco`."""
    ids = category_ids(result.classes)
    packed = pack_values(result.labels, [segment.class_id for segment in result.segments])
    annotations = [
        _annotation(number, image_id, ids[segment.class_id], rle, segment.area, segment.bbox, segment.score)
        for number, (segment, rle) in enumerate(zip(result.segments, packed, strict=True), start=annotation_id)
    ]
    return {**_header(result, image_id, file_name), "annotations": annotations}


def pack_values(ids: np.ndarray, values: Iterable[int]) -> Iterator[dict[str, Any]]:
    """Yield COCO's compressed run lengths of the pixels of each value of a map ``(H, W)``."""
    from pycocotools import mask as coco_mask

    mask = np.empty(ids.shape, dtype=np.uint8, order="F")  # RLE runs down the columns
    for value in values:
        for top in range(0, len(ids), _ROWS):  # the map the other way round would be a copy of it all
            mask[top : top + _ROWS] = ids[top : top + _ROWS] == value
        yield {"size": list(ids.shape), "counts": coco_mask.encode(mask)["counts"].decode("ascii")}


def by_instance(result: Result, image_id: int, file_name: str, annotation_id: int) -> dict[str, Any]:
    """Return a COCO dictionary with one annotation for each object, which is also the form of COCO's results.

    Raises:
        InputError: The model gave no objects.
    """
    if result.instances is None:
        raise InputError("the result has no instances; use a model that gives them, or coco-semantic")
    ids = category_ids(result.classes)
    annotations = [
        _annotation(number, image_id, ids[own.class_id], dict(own.rle), own.area, own.bbox, own.score)
        for number, own in enumerate(result.instances, start=annotation_id)
    ]
    return {**_header(result, image_id, file_name), "annotations": annotations}


def by_segment(result: Result, image_id: int, file_name: str, png_name: str) -> dict[str, Any]:
    """Return a COCO panoptic dictionary; its picture is written by `save_panoptic`.

    Raises:
        InputError: The model gave no segments.
    """
    segments = segments_info(panoptic_of(result), category_ids(result.classes))
    annotation = {"image_id": image_id, "file_name": png_name, "segments_info": segments}
    return {**_header(result, image_id, file_name), "annotations": [annotation]}


def save_panoptic(result: Result, path: Path, image_id: int, file_name: str) -> Path:
    """Write the picture of COCO's panoptic format and its JSON beside it.

    Raises:
        InputError: The model gave no segments, the path is no PNG, or it cannot be written to.
    """
    summary = {"info": MADE_BY, **by_segment(result, image_id, file_name, path.name)}
    if path.suffix.lower() != ".png":
        raise InputError(f"cannot save panoptic segments as '{path.name}'; expected a .png, a .json comes beside it")
    with atomic_write(path) as temporary:
        panoptic_picture(result).save(temporary, format="PNG")
    with atomic_write(path.with_suffix(".json")) as temporary:
        temporary.write_text(dump(summary, indent=2) + "\n", encoding="utf-8")
    return path


def panoptic_picture(result: Result) -> Image.Image:
    """Return the ids of the segments (H, W) as colours: id = R + 256 G + 256 * 256 B.

    Raises:
        InputError: The model gave no segments.
    """
    from PIL import Image

    ids = panoptic_of(result).ids
    return Image.fromarray(np.stack([ids, ids >> 8, ids >> 16], axis=-1).astype(np.uint8))


def panoptic_of(result: Result) -> Panoptic:
    """Return the segments of a result.

    Raises:
        InputError: The model gave none.
    """
    if result.panoptic is None:
        raise InputError("the result has no panoptic segments; use a model that gives them, or coco-semantic")
    return result.panoptic


def category_ids(classes: Vocabulary) -> list[int]:
    """Return the category id of each class: the user's own, else its position + 1."""
    return classes.ids or list(range(1, len(classes) + 1))


def _header(result: Result, image_id: int, file_name: str) -> dict[str, Any]:
    """Return ``images`` (one) and ``categories`` (all classes) of a COCO dictionary."""
    height, width = result.labels.shape
    name = file_name or str(result.meta.get("image", ""))
    return {
        "images": [{"id": image_id, "file_name": name, "width": width, "height": height}],
        "categories": categories_of(result.classes),
    }


def categories_of(classes: Vocabulary) -> list[dict[str, Any]]:
    """Return ``categories`` of a COCO dictionary: all classes."""
    return [
        {"id": own, "name": entry.name, "isthing": int(entry.is_thing), "color": list(entry.color)}
        for own, entry in zip(category_ids(classes), classes, strict=True)
    ]


def _annotation(
    number: int,
    image_id: int,
    category_id: int,
    rle: dict[str, Any],
    area: int,
    bbox: tuple[int, int, int, int],
    score: float,
) -> dict[str, Any]:
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "segmentation": rle,
        "area": area,
        "bbox": list(bbox),
        "iscrowd": 0,
        "score": score,
    }


def segments_info(panoptic: Panoptic, ids: list[int]) -> list[dict[str, Any]]:
    """Return the ``segments_info`` of COCO's panoptic format: id, category, area, box, ``isthing``, score."""
    measures = measure(panoptic.ids, np.zeros(panoptic.ids.shape, dtype=np.float32), int(panoptic.ids.max()) + 1)
    return [
        {
            "id": segment.id,
            "category_id": ids[segment.class_id],
            "area": measures[segment.id].area,
            "bbox": list(measures[segment.id].bbox),
            "iscrowd": 0,
            "isthing": int(segment.is_thing),
            "score": segment.score,
        }
        for segment in panoptic.segments
    ]
