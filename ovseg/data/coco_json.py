"""COCO's JSON files: panoptic (COCO, Scenes) and instances (COCO, own data of most annotation tools)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ovseg.data.dataset import INSTANCE, PANOPTIC, Dataset, identity_lookup
from ovseg.errors import InputError
from ovseg.vocabulary import Vocabulary


def read_coco_json(
    path: Path, images: Path, masks: Path | None = None, name: str = "", classes: Vocabulary | None = None
) -> Dataset:
    """Read a COCO file; whether it is panoptic is seen by its annotations.

    Args:
        path: The JSON file.
        images: Folder of the images.
        masks: Folder of the panoptic PNGs; not needed for instances.
        name: Of the data set; the file's path without it.
        classes: In place of the names in the file, one for each of its categories in order.

    Raises:
        InputError: It is missing, or no such file.
        VocabularyError: The names of its categories cannot be used.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        by_id = {image["id"]: {**_name(image), **image} for image in data["images"]}
        categories = {category["id"]: place for place, category in enumerate(data["categories"])}
        annotations = data["annotations"]
        panoptic = any("segments_info" in one for one in annotations)
        reader = _panoptic_records if panoptic else _instance_records
        records, problems = reader(annotations, by_id, categories, images, masks)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"key {error} is missing" if isinstance(error, KeyError) else " ".join(str(error).split())[:120]
        raise InputError(
            f"'{path}' is no COCO file ({reason}); expected images, annotations (with segmentation or segments_info) "
            "and categories"
        ) from error
    if not records:
        raise InputError(f"'{path}' annotates no image; expected at least one entry in annotations")
    count = len(categories)
    for record in records:
        if not Path(record["file_name"]).is_file():
            problems.append(f"image '{record['file_name']}' is missing, '{path.name}' lists it")
    return Dataset(
        name or str(path),
        Vocabulary.parse(_class_list(data["categories"])) if classes is None else classes,
        PANOPTIC if panoptic else INSTANCE,
        records,
        identity_lookup(count),
        np.arange(count, dtype=np.int32),
        tuple(problems),
        root=str(images),
    )


def _class_list(categories: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Keep of COCO's categories what a vocabulary knows."""
    return [
        {"name": one["name"], "synonyms": one.get("synonyms", []), "is_thing": bool(one.get("isthing", 1))}
        for one in categories
    ]


def _name(image: dict[str, Any]) -> dict[str, str]:
    """Return folder and name at the end of an image's address, which is all that LVIS has."""
    return {"file_name": "/".join(image["coco_url"].split("/")[-2:])} if "coco_url" in image else {}


def _record(image: dict[str, Any], images: Path) -> dict[str, Any]:
    sizes: dict[str, Any] = {key: image[key] for key in ("height", "width") if key in image}
    return {"file_name": str(images / image["file_name"]), "image_id": image["id"], **sizes}


def _panoptic_records(
    annotations: list[dict[str, Any]],
    by_id: dict[Any, dict[str, Any]],
    categories: dict[Any, int],
    images: Path,
    masks: Path | None,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return a record for each annotated image, and problems."""
    records, problems = [], []
    for one in annotations:
        segments = []
        for segment in one["segments_info"]:
            if segment["category_id"] not in categories:
                problems.append(_unlisted(by_id[one["image_id"]], segment["category_id"]))
                continue
            segments.append({**segment, "category_id": categories[segment["category_id"]]})
        record = _record(by_id[one["image_id"]], images)
        mask = str((masks or images) / one["file_name"])
        records.append({**record, "pan_seg_file_name": mask, "segments_info": segments})
    return records, problems


def _instance_records(
    annotations: list[dict[str, Any]],
    by_id: dict[Any, dict[str, Any]],
    categories: dict[Any, int],
    images: Path,
    masks: Path | None,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return a record for each listed image (one without annotations is all void), and problems."""
    records = {key: {**_record(image, images), "annotations": []} for key, image in by_id.items()}
    problems = []
    for one in annotations:
        if one["category_id"] not in categories:
            problems.append(_unlisted(by_id[one["image_id"]], one["category_id"]))
            continue
        records[one["image_id"]]["annotations"].append({**one, "category_id": categories[one["category_id"]]})
    return list(records.values()), problems


def _unlisted(image: dict[str, Any], category: Any) -> str:
    return f"annotation of '{image['file_name']}' has category {category}, which categories does not list"
