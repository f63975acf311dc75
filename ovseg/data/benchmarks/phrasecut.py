"""PhraseCut: regions of photographs that phrases describe; each phrase is a prompt of its own, as CLIPSeg tests it.

How sure this is: format, counts and the drawing of the outlines are those of the publishers' own repository. CLIPSeg
leaves out 17 images whose annotations have another size than the photograph; here they are found by that and named.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from ovseg.data.benchmarks.base import Benchmark, Place, Source, Split, exists, register
from ovseg.data.dataset import PROMPTS, Dataset, identity_lookup
from ovseg.errors import InputError
from ovseg.vocabulary import Vocabulary
from ovseg.vocabulary.names import fold

PAGE = "https://github.com/ChenyunWu/PhraseCutDataset"
FOLDER = "VGPhraseCut_v0"
SIZES = "image_data_split3000.json"
PHOTOGRAPHS = ("images", "VG_100K", "VG_100K_2")
COUNTS = {"val": 2971, "test": 2937, "train": 71354, "miniv": 20}
"""Images; phrases are 20350, 18980 and 308893."""


@dataclass(frozen=True, eq=False)
class _Phrases:
    """Phrases of a split, each once, and its tasks: (image id, place of the phrase, outlines of its instances)."""

    words: Vocabulary
    tasks: list[tuple[int, int, list[Any]]]


@cache
def _read_phrases(path: Path, _changed: int) -> _Phrases:
    words: dict[str, int] = {}
    shown: list[str] = []
    tasks = []
    try:
        for task in json.loads(path.read_text(encoding="utf-8")):
            phrase = " ".join(task["phrase"].replace("|", " ").split())
            place = words.setdefault(fold(phrase), len(words))
            if place == len(shown):
                shown.append(phrase)
            corners = [polygon for instance in task["Polygons"] for polygon in instance]
            tasks.append((int(task["image_id"]), place, corners))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"key {error} is missing" if isinstance(error, KeyError) else str(error)[:100]
        raise InputError(f"'{path}' is no list of PhraseCut's phrases ({reason}); fetch it again") from error
    return _Phrases(Vocabulary.parse([[phrase] for phrase in shown]), tasks)


def _phrases(split: str, folder: Path) -> _Phrases:
    path = folder / f"refer_{split}.json"
    return _read_phrases(path, path.stat().st_mtime_ns if path.is_file() else 0)


def phrases(split: str, folder: Path) -> Vocabulary:
    """Return the phrases of a split, each once, case ignored.

    Raises:
        InputError: Their file is missing or broken.
    """
    return _phrases(split, folder).words


@cache
def _read_sizes(path: Path, _changed: int) -> dict[int, tuple[int, int]]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return {int(one["image_id"]): (int(one["height"]), int(one["width"])) for one in entries}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"'{path}' lists no sizes of images ({str(error)[:100]}); fetch it again") from error


@dataclass(frozen=True)
class PhraseCutSplit(Split):
    """A split of PhraseCut, read as it is; its class list is its phrases.

    Attributes:
        count: Images that the benchmark has.
        split: Its name in the files.
    """

    count: int
    split: str

    def complete(self, folder: Path) -> bool:
        """Whether phrases, sizes and photographs are there."""
        return not self._absent(folder)

    def require(self, place: Place) -> None:
        """Look for the files; see `Split.require`."""
        if absent := self._absent(place.folder):
            raise place.missing(absent[0])

    def classes(self, place: Place) -> Vocabulary:
        """Return the phrases of the split."""
        return phrases(self.split, place.folder)

    def read(self, place: Place) -> Dataset:
        """List the images, each with its phrases as annotations; see `Split.read`."""
        folder = place.folder
        sizes = _read_sizes(folder / SIZES, (folder / SIZES).stat().st_mtime_ns)
        records: dict[int, dict[str, Any]] = {}
        problems = []
        for image, phrase, corners in _phrases(self.split, folder).tasks:
            if image not in sizes:
                problems.append(f"'{folder / SIZES}' has no size of image {image}; fetch it again")
                continue
            record = records.get(image) or _record(folder, image, sizes[image])
            records[image] = record
            record["annotations"].append({"category_id": phrase, "corners": corners})
        for record in records.values():
            if not (place.subset or Path(record["file_name"]).is_file()):
                problems.append(f"image '{record['file_name']}' is missing; unpack both parts of Visual Genome")
        classes = place.classes()
        remap = np.arange(len(classes), dtype=np.int32)
        found = [records[image] for image in sorted(records)]
        return Dataset(
            place.name, classes, PROMPTS, found, identity_lookup(len(classes)), remap, tuple(dict.fromkeys(problems))
        )

    def _absent(self, folder: Path) -> list[str]:
        """Return the paths that are missing."""
        return [path for path in (f"refer_{self.split}.json", SIZES, "|".join(PHOTOGRAPHS)) if not exists(folder, path)]


def _record(folder: Path, image: int, size: tuple[int, int]) -> dict[str, Any]:
    paths = [folder / name / f"{image}.jpg" for name in PHOTOGRAPHS]
    path = next((path for path in paths if path.is_file()), paths[0])
    return {"file_name": str(path), "image_id": image, "height": size[0], "width": size[1], "annotations": []}


def _photographs(part: str, folder: str, size: str) -> Source:
    return Source(
        what=f"photographs of Visual Genome, {size}",
        file=part,
        into=FOLDER,
        provides=("images", folder),
        url=f"https://cs.stanford.edu/people/rak248/VG_100K_2/{part}",
    )


register(
    Benchmark(
        name="phrasecut",
        title="PhraseCut, phrases as prompts",
        folders=(FOLDER, f"PhraseCut/{FOLDER}", f"PhraseCutDataset/data/{FOLDER}"),
        classes=partial(phrases, "val"),
        rule=(
            "each phrase is a prompt and its polygons (whole pixels, edges included) are its mask; images whose size "
            "is not that of the annotations are left out"
        ),
        sources=(
            *(
                Source(
                    what=f"the phrases of the split {split} (download_dataset.py there fetches them)",
                    file=f"refer_{split}.json",
                    into=FOLDER,
                    provides=(f"refer_{split}.json",),
                    page=PAGE,
                    splits=(split,),
                )
                for split in COUNTS
            ),
            Source(
                what="the sizes of the images (likewise, 16 MB)", file=SIZES, into=FOLDER, provides=(SIZES,), page=PAGE
            ),
            _photographs("images.zip", "VG_100K", "9.2 GB"),
            _photographs("images2.zip", "VG_100K_2", "5.5 GB"),
        ),
        splits={split: PhraseCutSplit(count, split) for split, count in COUNTS.items()},
        metric="prompts",
        licence="of Visual Genome: CC BY 4.0",
        paper="Wu et al., PhraseCut: Language-based Image Segmentation in the Wild, CVPR 2020",
    ),
)
