"""LVIS v1: objects of 1203 classes on COCO's photographs, whose names and frequencies come from its own file.

How sure this is: format, counts and addresses are those of the publishers and of Detectron2's reader.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ovseg.data.benchmarks.base import Benchmark, Place, Source, Split, below, exists, register
from ovseg.data.benchmarks.coco import images_of
from ovseg.data.benchmarks.names import distinct
from ovseg.data.coco_json import read_coco_json
from ovseg.data.dataset import Dataset
from ovseg.errors import InputError
from ovseg.system.files import atomic_write
from ovseg.vocabulary import Vocabulary

CLASSES = 1203
FILES = {"val": "lvis_v1_val.json", "train": "lvis_v1_train.json"}
GROUPS = {"r": "rare", "c": "common", "f": "frequent"}
"""By how many training images show a class: at most 10, at most 100, more."""
PHOTOGRAPHS = ("../coco", "../coco/images", ".", "images")
SETS = ("val2017", "train2017")
"""Folders of photographs; LVIS cuts COCO in another way, so either split needs both."""


def lvis_categories(path: Path) -> list[dict[str, Any]]:
    """Return the categories of an annotation file.

    Raises:
        InputError: The file is missing or broken, or is not of LVIS v1.
    """
    found = _categories(path, path.stat().st_mtime_ns if path.is_file() else 0)
    if len(found) != CLASSES or any(one.get("frequency") not in GROUPS for one in found):
        raise InputError(f"'{path}' lists {len(found)} categories; expected the {CLASSES} of LVIS v1 with a frequency")
    return found


@cache
def _categories(path: Path, _changed: int) -> list[dict[str, Any]]:
    try:
        found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["categories"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"'{path}' cannot be read ({str(error)[:100]}); unpack the archive of LVIS again") from error
    return found


def find_annotations(folder: Path, files: Iterable[str] = ()) -> Path:
    """Return the first annotation file that is there, of all splits or of those named; the first name if none is."""
    names = [name for file in files or FILES.values() for name in (file, f"annotations/{file}")]
    return next((folder / name for name in names if (folder / name).is_file()), folder / names[0])


def lvis_classes(folder: Path) -> Vocabulary:
    """Read names and synonyms, underscores as spaces; a word that several classes have goes to one of them.

    Raises:
        InputError: As `lvis_categories`.
    """
    return Vocabulary.parse(distinct([_names(one) for one in lvis_categories(find_annotations(folder))]))


def _names(category: dict[str, Any]) -> list[str]:
    """Return the name of a category and then its synonyms."""
    words = [category["name"], *category.get("synonyms", [])]
    return list(dict.fromkeys(word.replace("_", " ") for word in words))


@dataclass(frozen=True)
class LvisSplit(Split):
    """A split of LVIS, read as it is.

    Attributes:
        count: Images that the benchmark has.
        file: Name of its annotations.
    """

    count: int
    file: str

    def complete(self, folder: Path) -> bool:
        """Whether annotations and photographs are there."""
        return not self._absent(folder)

    def require(self, place: Place) -> None:
        """Look for the files; see `Split.require`."""
        if absent := self._absent(place.folder):
            raise place.missing(absent)

    def convert(self, place: Place) -> dict[str, str]:
        """Write the names of each group of frequency into a file of its own, for ``ovseg eval --novel``."""
        entries = zip(lvis_categories(find_annotations(place.folder)), place.classes(), strict=True)
        groups: dict[str, list[str]] = {name: [] for name in GROUPS.values()}
        for category, entry in entries:
            groups[GROUPS[category["frequency"]]].append(entry.name)
        for name, members in groups.items():
            with atomic_write(place.made / f"{name}.json") as temporary:
                temporary.write_text(json.dumps(members, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return {}

    def read(self, place: Place) -> Dataset:
        """Read the annotations; see `Split.read`."""
        folder = place.folder
        path, images = find_annotations(folder, [self.file]), below(folder, self._photographs(folder))
        numbers = [one["id"] for one in lvis_categories(find_annotations(folder))]
        return read_coco_json(path, images, name=place.name, classes=(place.classes(), numbers), subset=place.subset)

    def _photographs(self, folder: Path) -> str:
        """Return the folder that has photographs of all sets; empty when there is none."""
        return next((root for root in PHOTOGRAPHS if all(exists(folder, f"{root}/{one}") for one in SETS)), "")

    def _absent(self, folder: Path) -> str:
        """Return the first path that is missing; empty when none is."""
        if not find_annotations(folder, [self.file]).is_file():
            return self.file
        if self._photographs(folder):
            return ""
        absent = (f"../coco/{one}" for one in SETS)
        return next(path for path in absent if not exists(folder, path))


def _annotations(split: str) -> Source:
    file = FILES[split]
    return Source(
        what="annotations",
        file=f"{file}.zip",
        into="lvis",
        provides=(file, f"annotations/{file}"),
        url=f"https://dl.fbaipublicfiles.com/LVIS/{file}.zip",
        splits=(split,),
    )


def _images(name: str) -> Source:
    source = images_of(name)
    provides = tuple(f"{root}/{name}" for root in PHOTOGRAPHS)
    return Source(source.what, source.file, source.into, provides, url=source.url, size=source.size)


register(
    Benchmark(
        name="lvis",
        title="LVIS v1, 1203 classes of objects",
        folders=("lvis", "lvis_v1"),
        classes=lvis_classes,
        rule=(
            "polygons in the JSON file, class ids in the order of its categories; what is not outlined is void, and "
            "classes that an image was not checked for are not told apart from absent ones; `rare.json`, `common.json` "
            "and `frequent.json` in ROOT/ovseg/NAME list the classes by frequency, for `--novel`"
        ),
        sources=(*map(_annotations, FILES), *map(_images, SETS)),
        splits={"val": LvisSplit(19809, FILES["val"]), "train": LvisSplit(100170, FILES["train"])},
        aliases={"val": ("lvis_v1_val",), "train": ("lvis_v1_train",)},
        metric="instance",
        licence="annotations CC BY 4.0; images under Flickr's terms",
        paper="Gupta et al., LVIS: A Dataset for Large Vocabulary Instance Segmentation, CVPR 2019",
    ),
)
