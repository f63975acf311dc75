"""Own data: a folder with a COCO JSON file, or ``images/ + labels/ + classes.txt``.

The second layout: ``labels/a.png`` belongs to ``images/a.jpg``, also in folders below them (see `ovseg.data.pairing`);
its value is the line of ``classes.txt``, from 0, and 255 or 65535 where there is no class. With more than 255 classes
labels need 16 bits, and only 65535 is void. A line may hold synonyms: ``cat|kitten``. Labels may also be called
``a.labels.png``, as ``ovseg segment`` writes them.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from ovseg.data.coco_json import read_coco_json
from ovseg.data.dataset import SEMANTIC, Dataset, identity_lookup
from ovseg.data.pairing import read_label_pairs
from ovseg.errors import InputError
from ovseg.vocabulary import Vocabulary

LAYOUTS = "images/ + labels/ + classes.txt, or images/ and a COCO JSON file"


def read_folder(folder: Path, chosen: str = "") -> Dataset:
    """Read a data set of one of our layouts.

    A folder of Scenes (``panoptic.json``, ``panoptic/``, ``images/``) is one with a COCO JSON file.

    Args:
        folder: Where it is.
        chosen: Path below it of the COCO JSON file; empty for the only one.

    Raises:
        InputError: The folder is missing or of another layout; its files are not as they should be.
        VocabularyError: The names of the classes cannot be used.
    """
    if not folder.is_dir():
        raise InputError(f"data folder '{folder}' does not exist; expected a folder with {LAYOUTS}")
    if chosen:
        found = folder / chosen
        if not found.is_file():
            raise InputError(f"'{found}' does not exist; expected DIR:FILE.json with a file below DIR")
    elif (folder / "classes.txt").is_file():
        return _read_labels(folder)
    else:
        found = find_json(folder)
    images = folder / "images" if (folder / "images").is_dir() else folder
    split = found.stem.rpartition("_")[2]  # COCO: annotations/instances_val2017.json, val2017/
    also = (images / split, folder / split, folder / "data", folder)  # FiftyOne: labels.json, data/
    places = (folder / "panoptic", folder / found.stem, found.parent / found.stem)
    masks = next((place for place in places if place.is_dir()), places[0])
    return read_coco_json(found, images, masks, f"{folder}:{chosen}" if chosen else str(folder), also=also)


def find_json(folder: Path) -> Path:
    """Return the COCO file of a folder: the only one in it or in its ``annotations``.

    A lone JSON file is taken for one, unless there are labels, which a COCO file has no use for.

    Raises:
        InputError: There is none, or several.
    """
    places = (folder, folder / "annotations")
    found = sorted(path for place in places for path in place.glob("*.json") if path.is_file())
    if found[1:] or (folder / "labels").is_dir():
        found = [path for path in found if _is_coco(path)]
    if len(found) == 1:
        return found[0]
    if found:
        names = [path.relative_to(folder).as_posix() for path in found]
        listed = ", ".join(names[:10]) + (", ..." if names[10:] else "")
        raise InputError(
            f"folder '{folder}' holds {len(found)} COCO files ({listed}); say which one: '{folder}:{names[0]}'"
        )
    labels = (folder / "labels").is_dir()
    missing = "classes.txt (a class a line) is missing" if labels else "no such files are in it"
    raise InputError(f"folder '{folder}' is no data set: {missing}; expected {LAYOUTS}")


def _is_coco(path: Path) -> bool:
    """Tell whether a file is one, without reading big ones twice: they are."""
    try:
        if path.stat().st_size > 50e6:
            return True
        data = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return path.stem in ("annotations", "panoptic", "instances")  # most likely meant, and broken
    return isinstance(data, dict) and "annotations" in data


def _read_labels(folder: Path) -> Dataset:
    classes = Vocabulary.parse(folder / "classes.txt")
    records, problems, notes = read_label_pairs(folder / "images", folder / "labels")
    if not records and not problems:
        skipped = f" ({notes[0]})" if notes else ""
        raise InputError(f"folder '{folder / 'images'}' holds no images; expected .jpg or .png files in it{skipped}")
    count = len(classes)
    remap = np.arange(count, dtype=np.int32)
    return Dataset(
        str(folder),
        classes,
        SEMANTIC,
        records,
        identity_lookup(count),
        remap,
        tuple(problems),
        notes=(*classes.notes, *notes),
        root=str(folder / "images"),
    )
