"""What other tools make of our files, after their documentation: each gives the class of every pixel back.

A reader takes the folder of a run and returns ``(H, W)`` positions of classes by the name of the image without suffix,
-1 = none. Two classes on one pixel are an error.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import yaml
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from ovseg.vocabulary import Vocabulary

Maps = dict[str, np.ndarray]


def stem(name: str) -> str:
    return name.rpartition(".")[0]


def painted(size: tuple[int, int], masks: Iterable[tuple[int, np.ndarray]]) -> np.ndarray:
    """Paint masks of classes into a map; they share no pixel."""
    found, covered = np.full(size, -1), np.zeros(size, int)
    for class_id, mask in masks:
        found[mask] = class_id
        covered += mask
    assert covered.max() <= 1
    return found


def polygon(points: list[Any], size: tuple[int, int]) -> np.ndarray:
    """Draw a polygon [[x, y], ...] by COCO's rule."""
    flat = [[float(value) for point in points for value in point]]
    mask: np.ndarray = coco_mask.decode(coco_mask.frPyObjects(flat, *size))[..., 0].astype(bool)
    return mask


def coco(folder: Path, classes: Vocabulary, name: str) -> Maps:
    """Read by COCO's own library."""
    found = COCO(str(folder / f"{name}.json"))
    positions = {one["id"]: classes.names.index(one["name"]) for one in found.loadCats(found.getCatIds())}
    maps = {}
    for image in found.loadImgs(found.getImgIds()):
        own = found.loadAnns(found.getAnnIds(imgIds=[image["id"]]))
        assert all(one["id"] > 0 and one["area"] == coco_mask.area(found.annToRLE(one)) for one in own)
        masks = ((positions[one["category_id"]], found.annToMask(one).astype(bool)) for one in own)
        maps[stem(image["file_name"])] = painted((image["height"], image["width"]), masks)
    return maps


def coco_panoptic(folder: Path, classes: Vocabulary) -> Maps:
    """Read by panopticapi's rule: id = R + 256 G + 65536 B."""
    from panopticapi.utils import rgb2id

    found = json.loads((folder / "coco-panoptic.json").read_text(encoding="utf-8"))
    positions = {one["id"]: classes.names.index(one["name"]) for one in found["categories"]}
    images, maps = {one["id"]: one for one in found["images"]}, {}
    for one in found["annotations"]:
        with Image.open(folder / "coco-panoptic" / one["file_name"]) as picture:
            ids = rgb2id(np.asarray(picture))
        assert {*np.unique(ids).tolist()} - {0} == {own["id"] for own in one["segments_info"]}
        assert all((ids == own["id"]).sum() == own["area"] for own in one["segments_info"])
        masks = ((positions[own["category_id"]], ids == own["id"]) for own in one["segments_info"])
        image = images[one["image_id"]]
        maps[stem(image["file_name"])] = painted((image["height"], image["width"]), masks)
    return maps


def yolo_seg(folder: Path, classes: Vocabulary) -> Maps:
    """Read as Ultralytics does: for the label the last folder called images is called labels."""
    home = folder / "yolo-seg"
    data = yaml.safe_load((home / "data.yaml").read_text(encoding="utf-8"))
    assert data["names"] == dict(enumerate(classes.names)) and data["nc"] == len(classes)
    assert data.get("ids") == (dict(enumerate(classes.ids)) if classes.ids else None)
    maps = {}
    for path in sorted(file for file in (home / data["train"]).rglob("*") if file.suffix in (".png", ".jpg")):
        before, after = str(path).rsplit("/images/", 1)
        lines = Path(f"{before}/labels/{after.rsplit('.', 1)[0]}.txt").read_text().splitlines()
        width, height = Image.open(path).size
        masks = []
        for line in lines:
            number, *shares = line.split()
            points = np.array(shares, float).reshape(-1, 2)
            assert len(points) >= 3 and points.min() >= 0 and points.max() <= 1
            masks.append((int(number), polygon((points * [width, height]).tolist(), (height, width))))
        maps[stem(path.relative_to(home / "images").as_posix())] = painted((height, width), masks)
    return maps


def labelme(folder: Path, classes: Vocabulary) -> Maps:
    """Read shapes that are masks (the far corner is a pixel inside) or polygons."""
    home, maps = folder / "labelme", {}
    for path in sorted(home.rglob("*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        size = found["imageHeight"], found["imageWidth"]
        with Image.open(path.parent / found["imagePath"]) as image:
            assert image.size == size[::-1]
        masks = []
        for shape in found["shapes"]:
            class_id = classes.names.index(shape["label"])
            assert shape.get("class_id") == classes[class_id].id
            if shape["shape_type"] == "polygon":
                masks.append((class_id, polygon(shape["points"], size)))
                continue
            assert shape["shape_type"] == "mask"
            (left, top), (right, bottom) = shape["points"]
            mask = np.zeros(size, bool)
            inside = np.asarray(Image.open(io.BytesIO(base64.b64decode(shape["mask"]))))
            mask[top : bottom + 1, left : right + 1] = inside
            masks.append((class_id, mask))
        maps[stem(path.relative_to(home).as_posix())] = painted(size, masks)
    return maps


def brush_bytes(packed: list[int]) -> np.ndarray:
    """Undo Label Studio's encoding, bit by bit; a run may also be a list of values."""
    bits, place = "".join(f"{value:08b}" for value in packed), 0

    def take(count: int) -> int:
        nonlocal place
        place += count
        return int(bits[place - count : place], 2)

    total, word, sizes = take(32), take(5) + 1, [take(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < total:
        run = take(1)
        count = take(sizes[take(2)]) + 1
        values += [take(word)] * count if run else [take(word) for _ in range(count)]
    assert len(values) == total and len(bits) - place < 8
    return np.array(values, np.uint8)


def label_studio(folder: Path, classes: Vocabulary) -> Maps:
    """Read tasks with predictions; the set-up has all labels."""
    home, maps = folder / "label-studio", {}
    config = ElementTree.parse(home / "config.xml").getroot()
    assert [one.get("value") for one in config.iter("Label")] == classes.names
    (brush,), (image_tag,) = config.iter("BrushLabels"), config.iter("Image")
    assert brush.get("toName") == image_tag.get("name")
    seen = set()
    for task in json.loads((home / "tasks.json").read_text(encoding="utf-8")):
        path = unquote(task["data"]["image"].removeprefix("/data/local-files/?d="), errors="surrogateescape")
        width, height = Image.open(home / path).size
        (prediction,), masks = task["predictions"], []
        for one in prediction["result"]:
            assert one["type"] == "brushlabels" and (one["original_width"], one["original_height"]) == (width, height)
            assert (one["from_name"], one["to_name"]) == (brush.get("name"), image_tag.get("name"))
            (label,), value = one["value"]["brushlabels"], one["value"]
            mask = brush_bytes(value["rle"]).reshape(height, width, 4)
            assert value["format"] == "rle" and (mask == mask[..., :1]).all()
            masks.append((classes.names.index(label), mask[..., 3] > 0))
            seen.add(one["id"])
        maps[stem(path.removeprefix("images/"))] = painted((height, width), masks)
    return maps


def cvat(folder: Path, classes: Vocabulary) -> Maps:
    """Read masks, whose run lengths go row by row in their box from what is outside, and polygons."""
    root, maps = ElementTree.parse(folder / "cvat.xml").getroot(), {}
    assert root.findtext("version") == "1.1"
    assert [one.findtext("name") for one in root.iter("label")] == classes.names
    images = root.findall("image")
    assert root.findtext("meta/task/size") == str(len(images))
    assert [one.get("id") for one in images] == [str(i) for i in range(len(images))]
    for image in images:
        size = int(image.attrib["height"]), int(image.attrib["width"])
        masks = []
        for one in image:
            if one.tag == "polygon":
                points = [point.split(",") for point in one.attrib["points"].split(";")]
                mask = polygon(points, size)
            else:
                assert one.tag == "mask"
                left, top, width, height = (int(one.attrib[key]) for key in ("left", "top", "width", "height"))
                runs = [int(run) for run in one.attrib["rle"].split(",")]
                flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
                mask = np.zeros(size, bool)
                mask[top : top + height, left : left + width] = flat.reshape(height, width)
            masks.append((classes.names.index(one.attrib["label"]), mask))
        maps[stem(image.attrib["name"])] = painted(size, masks)
    return maps


def voc(folder: Path, classes: Vocabulary) -> Maps:
    """Read by the colours of labelmap.txt; objects are of one class each."""
    home, maps = folder / "voc", {}
    head, *lines = (home / "labelmap.txt").read_text(encoding="utf-8").splitlines()
    assert head.startswith("#")
    by_color = {}
    for line in lines:
        name, color, parts, actions = line.split(":")
        assert parts == actions == ""
        by_color[tuple(map(int, color.split(",")))] = classes.names.index(name) if name in classes.names else None
    for name in (home / "ImageSets/Segmentation/trainval.txt").read_text(encoding="utf-8").splitlines():
        with Image.open(home / f"SegmentationClass/{name}.png") as picture:
            colors = np.asarray(picture.convert("RGB"))
        with Image.open(home / f"SegmentationObject/{name}.png") as picture:
            objects = np.asarray(picture)
        with Image.open(home / f"JPEGImages/{name}.jpg") as photograph:
            assert photograph.format == "JPEG" and photograph.size == colors.shape[1::-1]
        maps[name] = np.full(colors.shape[:2], -1)
        for color in np.unique(colors.reshape(-1, 3), axis=0).tolist():
            own = (colors == color).all(axis=-1)
            if tuple(color) == (224, 224, 192):
                assert (objects[own] == 255).all()
                continue
            class_id = by_color[tuple(color)]
            assert class_id is not None
            maps[name][own] = class_id
        for number in {*np.unique(objects).tolist()} - {255}:
            assert number > 0 and len(np.unique(maps[name][objects == number])) == 1
    return maps


def dataset(folder: Path, classes: Vocabulary) -> Maps:
    """Read 8-bit labels."""
    assert (folder / "classes.txt").read_text(encoding="utf-8").splitlines() == ["|".join(one.names) for one in classes]
    return _pngs(folder / "labels", ".png", 255)


def _pngs(folder: Path, ending: str, void: int) -> Maps:
    maps = {}
    for path in sorted(folder.rglob(f"*{ending}")):
        values = np.asarray(Image.open(path)).astype(int)
        maps[path.relative_to(folder).as_posix().removesuffix(ending)] = np.where(values == void, -1, values)
    return maps


READERS = {
    "coco-semantic": lambda folder, classes: coco(folder, classes, "coco-semantic"),
    "coco-instance": lambda folder, classes: coco(folder, classes, "coco-instance"),
    "coco-panoptic": coco_panoptic,
    "yolo-seg": yolo_seg,
    "labelme": labelme,
    "label-studio": label_studio,
    "cvat": cvat,
    "voc": voc,
    "dataset": dataset,
    "labels": lambda folder, classes: _pngs(folder, ".labels.png", 65535),
    "png": lambda folder, classes: _pngs(folder, ".ids.png", 65535),
}
