"""OVCamo: camouflaged objects, 14 classes to learn from and 61 others to find.

How sure this is: files, layout and label rule are those of the publishers' reader and of their script
``split_dataset.py``; counts are those of the paper. Their own numbers (cIoU, cSm, ...) are other measures than ours.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ovseg.data.benchmarks.base import Benchmark, Decoder, Layout, Place, Source, register
from ovseg.data.benchmarks.labels import LabelSplit
from ovseg.data.benchmarks.pictures import read_picture
from ovseg.errors import InputError
from ovseg.vocabulary import Vocabulary

PAGE = "https://github.com/lartpang/OVCamo"
LISTS = ("class_info.json", "sample_info.json")
COUNTS = {"test": 3770, "train": 7713}


@cache
def _read_list(path: Path, _changed: int) -> list[dict[str, Any]]:
    try:
        found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        keys = {"name", "split"} if path.name == LISTS[0] else {"unique_id", "base_class", "image", "mask"}
        if found and all(keys <= set(one) for one in found):
            return found
        reason = f"expected a list of entries with {', '.join(sorted(keys))}"
    except (OSError, ValueError, TypeError) as error:
        reason = str(error)[:100]
    raise InputError(f"'{path}' cannot be used ({reason}); fetch it again")


def read_list(path: Path) -> list[dict[str, Any]]:
    """Read one of the two lists of the data set.

    Raises:
        InputError: It is missing, broken or another file.
    """
    return _read_list(path, path.stat().st_mtime_ns if path.is_file() else 0)


def ovcamo_names(folder: Path, split: str) -> list[str]:
    """Return background and then the classes of a split, in the order of the list.

    Raises:
        InputError: As `read_list`.
    """
    return ["background", *(one["name"] for one in read_list(folder / LISTS[0]) if one["split"] == split)]


def _samples(folder: Path, split: str) -> dict[str, tuple[int, str]]:
    """Return class and mask file of the images of a split, by the names that the publishers' script gives them."""
    places = {name: place for place, name in enumerate(ovcamo_names(folder, split))}
    found = {}
    for one in read_list(folder / LISTS[1]):
        if one["base_class"] in places:
            image, mask = (PurePosixPath(one[key]).suffix for key in ("image", "mask"))
            found[f"{one['unique_id']}{image}"] = places[one["base_class"]], f"{one['unique_id']}{mask}"
    return found


def _listed(split: str) -> Callable[[Path], list[str]]:
    return lambda folder: list(_samples(folder, split))


def _decoder(split: str, place: Place, _pattern: str) -> Decoder:
    """Decode a mask: all but 0 is the class of its image."""
    samples = _samples(place.folder, split)

    def decode(stem: str) -> np.ndarray:
        class_id, mask = samples[stem]
        return np.where(read_picture(place.folder / split / "mask" / mask, "L") > 0, class_id, 0).astype(np.int32)

    return decode


class CamoSplit(LabelSplit):
    """A split; each has classes of its own."""

    def classes(self, place: Place) -> Vocabulary:
        """Return background and the classes of the split."""
        return Vocabulary.parse([name.replace("_", " ") for name in ovcamo_names(place.folder, place.split)])


def _split(name: str) -> CamoSplit:
    needs = (*LISTS, f"{name}/mask/*")
    layout = Layout(f"{name}/image/{{}}", LISTS[1], partial(_decoder, name), _listed(name), needs)
    return CamoSplit(COUNTS[name], (layout,))


register(
    Benchmark(
        name="ovcamo",
        title="OVCamo, 61 unseen classes of camouflaged objects",
        folders=("ovcamo", "OVCamo"),
        classes=lambda folder: Vocabulary.parse(ovcamo_names(folder, "test")),
        rule="all of the mask but 0 is the class that sample_info.json gives the image; the rest is background 0",
        sources=(
            *(
                Source(
                    what="the list of classes" if name == LISTS[0] else "the class of each image",
                    file=name,
                    into="ovcamo",
                    provides=(name,),
                    url=f"{PAGE}/releases/download/dataset-v1.0/{name}",
                )
                for name in LISTS
            ),
            *(
                Source(
                    what=(
                        f"images and masks as {split}/image and {split}/mask, which split_dataset.py there gathers "
                        "from six data sets"
                    ),
                    file=f"ovcamo_{split}.zip",
                    into="ovcamo",
                    provides=(f"{split}/image", f"{split}/mask"),
                    page=f"{PAGE}/tree/main/datasets",
                    splits=(split,),
                )
                for split in COUNTS
            ),
        ),
        splits={split: _split(split) for split in COUNTS},
        background=0,
        licence="CC BY-NC-SA 4.0",
        paper="Pang et al., Open-Vocabulary Camouflaged Object Segmentation, ECCV 2024",
    ),
)
