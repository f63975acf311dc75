"""ADE20K: the 150 classes of scene parsing, and the full release with 847."""

from __future__ import annotations

import json
import pickle
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ovseg.data.benchmarks.base import Benchmark, Decoder, Layout, Place, Source, register
from ovseg.data.benchmarks.labels import LabelSplit, by_value, counted_from_one
from ovseg.data.benchmarks.names import distinct
from ovseg.data.benchmarks.pictures import read_picture
from ovseg.data.dataset import LABEL_VALUES, VOID
from ovseg.errors import InputError
from ovseg.vocabulary import Vocabulary

PAPER = "Zhou et al., Scene Parsing through ADE20K, CVPR 2017"


def _ade150(split: str, count: int) -> LabelSplit:
    images = f"images/{split}/{{}}.jpg"
    raw = Layout(images, f"annotations/{split}/{{}}.png", by_value(counted_from_one(150)))
    return LabelSplit(count, (raw, Layout(images, f"annotations_detectron2/{split}/{{}}.png")))


ADE150 = Benchmark(
    name="ade150",
    title="ADE20K, 150 classes (SceneParsing)",
    folders=("ADEChallengeData2016", "ade/ADEChallengeData2016"),
    classes="ade150",
    rule="8-bit PNG counts classes from 1; 0 (other objects) is ignored",
    sources=(
        Source(
            what="images and labels, 923 MB",
            file="ADEChallengeData2016.zip",
            into=".",
            provides=("annotations", "images"),
            url="http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
        ),
    ),
    splits={"val": _ade150("validation", 2000), "train": _ade150("training", 20210)},
    aliases={"val": ("ade20k_sem_seg_val",), "train": ("ade20k_sem_seg_train",)},
    licence="BSD-3-Clause (annotations); images for research only",
    paper=PAPER,
)

FULL = "ADE20K_2021_17_01"
INDEX = "index_ade20k.pkl"
NUMBERS_847: list[int] = json.loads(Path(__file__).with_name("ade847_ids.json").read_text(encoding="utf-8"))
"""Numbers (from 1) among the 3688 objects of the 847 that training and validation share, in benchmark order."""


class _NamesOnly(pickle.Unpickler):
    """Reads plain data and arrays; a pickle that asks for anything else is refused, for it could run programs."""

    ALLOWED = frozenset({"_reconstruct", "ndarray", "dtype", "scalar", "_frombuffer", "encode"})

    def find_class(self, module: str, name: str) -> Any:
        """Return what rebuilds arrays, and nothing else."""
        if name in self.ALLOWED and module.split(".")[0] in ("numpy", "_codecs"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def full_classes(folder: Path) -> Vocabulary:
    """Read the 847 names and their synonyms from the data set's own index.

    Raises:
        InputError: The index is broken or of another release.
    """
    path = folder / INDEX
    names = _object_names(path, path.stat().st_mtime_ns)
    if len(names) < max(NUMBERS_847) or not names[NUMBERS_847[0] - 1].startswith("wall"):
        raise InputError(f"'{path}' lists {len(names)} objects that are not those of {FULL}; fetch that release")
    return Vocabulary.parse(distinct([names[number - 1].split(",") for number in NUMBERS_847]))


@cache
def _object_names(path: Path, _changed: int) -> list[str]:
    try:
        with path.open("rb") as file:
            return [str(name) for name in _NamesOnly(file).load()["objectnames"]]
    except (OSError, pickle.UnpicklingError, KeyError, EOFError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"'{path}' cannot be read ({str(error)[:100]}); unpack the archive of {FULL} again") from error


def _rgb_decoder(place: Place, pattern: str) -> Decoder:
    """Decode the full release: an object's number is 256 * (R div 10) + G; what is not among the 847 is void."""
    table = np.full(LABEL_VALUES, VOID, np.int32)
    table[NUMBERS_847] = np.arange(len(NUMBERS_847))

    def decode(stem: str) -> np.ndarray:
        path = place.folder / pattern.format(stem)
        rgb = read_picture(path, "RGB")
        ids: np.ndarray = table[rgb[..., 0].astype(np.int32) // 10 * 256 + rgb[..., 1]]
        return ids

    return decode


def _full(split: str, count: int) -> LabelSplit:
    folder = f"images/ADE/{split}"
    resized = (f"images_detectron2/{split}/{{}}.jpg", f"annotations_detectron2/{split}/{{}}.tif")
    return LabelSplit(
        count,
        (
            Layout(f"{folder}/{{}}.jpg", f"{folder}/{{}}_seg.png", _rgb_decoder, needs=(INDEX,)),
            Layout(*resized, needs=(INDEX,)),
        ),
    )


ADE847 = Benchmark(
    name="ade847",
    title="ADE20K full, 847 classes",
    folders=(FULL,),
    classes=full_classes,
    rule=(
        "RGB PNG: object number is 256 * (R div 10) + G; objects beside the 847 are ignored; ids in 16 bits, void "
        "65535; at native size (published numbers mostly come from copies with a shorter side of at most 512)"
    ),
    sources=(
        Source(
            what="the release 2021_17_01 (personal link by mail after registration; rename the archive)",
            file=f"{FULL}.zip",
            into=".",
            provides=(INDEX, "images/ADE", "images"),
            page="https://groups.csail.mit.edu/vision/datasets/ADE20K",
        ),
    ),
    splits={"val": _full("validation", 2000), "train": _full("training", 25574)},
    aliases={"val": ("ade20k_full_sem_seg_val",), "train": ("ade20k_full_sem_seg_train",)},
    licence="images for research only",
    paper=PAPER,
)

register(ADE150, ADE847)
