"""How COCO writes segments and objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ovseg.errors import InputError
from ovseg.result.measures import measure
from ovseg.result.objects import Instance, Panoptic
from ovseg.system.files import atomic_write
from ovseg.system.values import dump
from ovseg.vocabulary import Vocabulary


def coco_header(classes: Vocabulary, size: tuple[int, int], image_id: int, file_name: str) -> dict[str, Any]:
    """Return ``images`` (one) and ``categories`` (all classes; category id = class id + 1) of a COCO dictionary."""
    categories = [
        {"id": i + 1, "name": entry.name, "isthing": int(entry.is_thing), "color": list(entry.color)}
        for i, entry in enumerate(classes)
    ]
    images = [{"id": image_id, "file_name": file_name, "width": size[1], "height": size[0]}]
    return {"images": images, "categories": categories}


def coco_segments(panoptic: Panoptic) -> list[dict[str, Any]]:
    """Return the ``segments_info`` of COCO's panoptic format: id, category, area, box, ``isthing``, score."""
    measures = measure(panoptic.ids, np.zeros(panoptic.ids.shape, dtype=np.float32), int(panoptic.ids.max()) + 1)
    return [
        {
            "id": segment.id,
            "category_id": segment.class_id + 1,
            "area": measures[segment.id].area,
            "bbox": list(measures[segment.id].bbox),
            "iscrowd": 0,
            "isthing": int(segment.is_thing),
            "score": segment.score,
        }
        for segment in panoptic.segments
    ]


def coco_instances(instances: Sequence[Instance], image_id: int, annotation_id: int) -> list[dict[str, Any]]:
    """Return the ``annotations`` of COCO's instance format, which is also that of its results."""
    return [
        {
            "id": number,
            "image_id": image_id,
            "category_id": own.class_id + 1,
            "segmentation": dict(own.rle),
            "area": own.area,
            "bbox": list(own.bbox),
            "iscrowd": 0,
            "score": own.score,
        }
        for number, own in enumerate(instances, start=annotation_id)
    ]


def write_coco_panoptic(panoptic: Panoptic, summary: Mapping[str, Any], path: Path) -> None:
    """Write the picture of COCO's panoptic format, id = R + 256 G + 256 * 256 B, and its JSON beside it.

    Raises:
        InputError: The path is no PNG or cannot be written to.
    """
    from PIL import Image

    if path.suffix.lower() != ".png":
        raise InputError(f"cannot save panoptic segments as '{path.name}'; expected a .png, a .json comes beside it")
    colors = np.stack([panoptic.ids, panoptic.ids >> 8, panoptic.ids >> 16], axis=-1).astype(np.uint8)
    with atomic_write(path) as temporary:
        Image.fromarray(colors).save(temporary, format="PNG")
    with atomic_write(path.with_suffix(".json")) as temporary:
        temporary.write_text(dump(summary, indent=2) + "\n", encoding="utf-8")
