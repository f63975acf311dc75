"""PASCAL VOC 2012 with and without background, and PASCAL Context with 59, 60 and 459 classes."""

from __future__ import annotations

import json
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from ovseg.data.benchmarks.base import Benchmark, Decoder, Layout, Place, Rule, Source, register
from ovseg.data.benchmarks.labels import LabelSplit, by_value, counted_from_one, lines, table_of
from ovseg.data.benchmarks.matlab import read_matrix
from ovseg.data.dataset import LABEL_VALUES, VOID
from ovseg.data.outlines import outline_rle
from ovseg.errors import InputError
from ovseg.vocabulary import Vocabulary

VOC = "http://host.robots.ox.ac.uk/pascal/VOC"
CONTEXT_PAGE = "https://cs.stanford.edu/~roozbeh/pascal-context (moved to roozbehm.info)"
CONTEXT = "Mottaghi et al., The Role of Context for Object Detection and Semantic Segmentation in the Wild, CVPR 2014"
LICENCE = "images under Flickr's terms"
MERGED = "trainval_merged.json"
# Numbers among the 459 classes of the 59 that count, in the order of their numbers, which is that of the alphabet.
NUMBERS_59 = (
    *(2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113, 115, 144, 158, 159),
    *(162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326, 347, 349, 354, 355, 360, 366, 368),
    *(397, 415, 416, 420, 424, 427, 440, 445, 454, 458),
)
COUNTS = {"val": (5104, (5105,)), "train": (4996, (4998,))}
LISTS = {
    "val": ("pascalcontext_val.txt", "ImageSets/SegmentationContext/val.txt"),
    "train": ("pascalcontext_train.txt", "ImageSets/SegmentationContext/train.txt"),
}


def places_59(background: bool) -> list[int]:
    """Return the class of each of `NUMBERS_59`: presets have the order of the data set's own list of 59."""
    names = Vocabulary.parse("pc60" if background else "pc59").names
    places = {name.replace(" ", ""): place for place, name in enumerate(names)}
    return [places[name] for name in sorted(set(places) - {"background"})]


def table_459(background: bool) -> np.ndarray:
    """Return the class (65536,) int32 of numbers among the 459: those beside the 59 are background, or void without."""
    table = np.full(LABEL_VALUES, 0 if background else VOID, np.int32)
    table[list(NUMBERS_59)] = places_59(background)
    return table


def table_59(background: bool, first: int) -> np.ndarray:
    """Return the class (65536,) int32 of labels that count the 59 in alphabetical order from ``first`` (0 or 1).

    All other pixels have 255 (from 0) or 0 (from 1).
    """
    other = 0 if background else VOID
    return table_of({0 if first else 255: other, **{first + i: one for i, one in enumerate(places_59(background))}})


def matlab(table: np.ndarray) -> Rule:
    """Make the rule of PASCAL Context's files: matrix LabelMap holds numbers of the 459 classes, 0 is not labelled."""
    return partial(_matlab_decoder, table)


def _matlab_decoder(table: np.ndarray, place: Place, pattern: str) -> Decoder:
    def decode(stem: str) -> np.ndarray:
        ids: np.ndarray = table[read_matrix(place.folder / pattern.format(stem), "LabelMap")]
        return ids

    return decode


def merged(table: np.ndarray) -> Rule:
    """Make the rule of trainval_merged.json: run lengths with numbers of the 459 classes, later ones on top."""
    return partial(_merged_decoder, table)


def _merged_decoder(table: np.ndarray, place: Place, pattern: str) -> Decoder:
    from pycocotools import mask as rle

    data = read_merged(place.folder)
    images = {Path(one["file_name"]).stem: one for one in data["images"]}
    outlines: dict[Any, list[dict[str, Any]]] = {}
    for one in data["annos_segmentation"]:
        outlines.setdefault(one["image_id"], []).append(one)

    def decode(stem: str) -> np.ndarray:
        image = images.get(stem)
        if image is None:
            raise InputError(f"'{place.folder / MERGED}' does not have '{stem}'; fetch it again")
        try:
            size = image["height"], image["width"]
            numbers = np.zeros(size, np.int32)
            for one in outlines.get(image["image_id"], []):
                numbers[rle.decode(outline_rle(one["segmentation"], size)) > 0] = one["category_id"]
        except (InputError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"'{MERGED}' has broken outlines of '{stem}' ({error}); fetch it again") from error
        ids: np.ndarray = table[numbers]
        return ids

    return decode


def read_merged(folder: Path) -> dict[str, Any]:
    """Return the content of trainval_merged.json.

    Raises:
        InputError: It is broken.
    """
    path = folder / MERGED
    try:
        return _parse_merged(path, path.stat().st_mtime_ns)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"'{path}' cannot be read ({str(error)[:100]}); fetch it again") from error


@cache
def _parse_merged(path: Path, _changed: int) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return {key: data[key] for key in ("images", "annos_segmentation")}


def context_list(split: str, folder: Path) -> list[str]:
    """Return the images of a split: as a text file lists them, else as trainval_merged.json does."""
    for name in LISTS[split]:
        if (folder / name).is_file():
            return lines(name)(folder)
    return [Path(one["file_name"]).stem for one in read_merged(folder)["images"] if one["phase"] == split]


def context_classes(folder: Path) -> Vocabulary:
    """Read the 459 names from the data set's labels.txt, whose lines are ``number: name``.

    Raises:
        InputError: It is missing, or has other than 459 lines.
    """
    path = next((p for p in (folder / "labels.txt", folder / "trainval/labels.txt") if p.is_file()), None)
    if path is None:
        raise InputError(f"'{folder / 'labels.txt'}' is missing; fetch labels.txt (459 lines) from {CONTEXT_PAGE}")
    names = [line.partition(":")[2].strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if len(names) != 459 or not all(names):
        raise InputError(f"'{path}' has {len(names)} lines; expected 459, each as '2: aeroplane': fetch it again")
    return Vocabulary.parse([[name] for name in names])


def _context(split: str, background: bool, count: int, also: tuple[int, ...]) -> LabelSplit:
    photo, listed = "JPEGImages/{}.jpg", partial(context_list, split)
    folder = {"val": "validation", "train": "training"}[split]
    made, numbers = f"annotations_detectron2/pc59_{split}", table_459(background)
    one, zero = by_value(table_59(background, 1)), by_value(table_59(background, 0))
    return LabelSplit(
        count,
        (
            Layout(photo, MERGED, merged(numbers), listed),
            Layout(photo, "SegmentationClassContext/{}.png", one, listed, (_lists(split),)),
            Layout(photo, "trainval/{}.mat", matlab(numbers), listed, (_lists(split),)),
            Layout(photo, f"{made}/{{}}.png", zero, partial(_files, made)),
            Layout(f"images/{folder}/{{}}.jpg", f"annotations_ctx59/{folder}/{{}}.png", zero),
            Layout(f"{split}/image/{{}}.jpg", f"{split}/label/{{}}.png", zero),
        ),
        also,
    )


def _context459(split: str, count: int, also: tuple[int, ...]) -> LabelSplit:
    photo, names = "JPEGImages/{}.jpg", "labels.txt|trainval/labels.txt"
    folder = {"val": "validation", "train": "training"}[split]
    made, raw = f"annotations_detectron2/pc459_{split}", matlab(counted_from_one(459))
    return LabelSplit(
        count,
        (
            Layout(photo, "trainval/{}.mat", raw, partial(context_list, split), (_lists(split), names)),
            Layout(photo, f"{made}/{{}}.tif", None, partial(_files, made), (names,)),
            Layout(f"images/{folder}/{{}}.jpg", f"annotations_ctx459/{folder}/{{}}.tif", needs=(names,)),
            Layout(f"{split}/image/{{}}.jpg", f"{split}/label/{{}}.tif", needs=(names,)),
        ),
        also,
    )


def _lists(split: str) -> str:
    """Return the files that may list a split."""
    return "|".join((MERGED, *LISTS[split]))


def _files(path: str, folder: Path) -> list[str]:
    """List a split by its labels."""
    return [label.stem for label in (folder / path).iterdir()]


def _voc(split: str, count: int, background: bool) -> LabelSplit:
    listed = f"ImageSets/Segmentation/{split}.txt"
    folder = {"val": "validation", "train": "training"}[split]
    values = {255: VOID, **{i: i if background else i - 1 for i in range(21)}}
    raw = Layout("JPEGImages/{}.jpg", "SegmentationClass/{}.png", by_value(table_of(values)), lines(listed), (listed,))
    kind = "annotations_pascal21" if background else "annotations_pascal20"
    made = Layout(f"images/{folder}/{{}}.jpg", f"{kind}/{folder}/{{}}.png")
    others = Layout(f"images_detectron2/{split}/{{}}.jpg", f"annotations_detectron2/{split}/{{}}.png")
    return LabelSplit(count, (raw, made) if background else (raw, made, others))


def _voc_benchmark(background: bool) -> Benchmark:
    return Benchmark(
        name="voc21" if background else "voc20",
        title=f"PASCAL VOC 2012, 20 classes {'and' if background else 'without'} background",
        folders=("VOCdevkit/VOC2012", "VOC2012", "pascal_voc_d2"),
        classes="voc21" if background else "voc20",
        rule=(
            "palette PNG: 0 is background, 1 to 20 are objects; 255 (contours) is ignored"
            if background
            else "palette PNG: 1 to 20 are objects; 0 (background) and 255 (contours) are ignored, so spilling is free"
        ),
        sources=(
            Source(
                what="images and labels, 1.9 GB",
                file="VOCtrainval_11-May-2012.tar",
                into=".",
                provides=("ImageSets/Segmentation", "SegmentationClass", "JPEGImages"),
                url=f"{VOC}/voc2012/VOCtrainval_11-May-2012.tar",
                checksum="md5:6cd6e144f989b92b3379bac3b3de84fd",
            ),
        ),
        splits={"val": _voc("val", 1449, background), "train": _voc("train", 1464, background)},
        aliases={} if background else {"val": ("voc_sem_seg_val",), "train": ("voc_sem_seg_train",)},
        background=0 if background else -1,
        licence=LICENCE,
        paper="Everingham et al., The PASCAL Visual Object Classes Challenge: A Retrospective, IJCV 2015",
    )


VOC2010 = Source(
    what="images of VOC 2010, 1.3 GB",
    file="VOCtrainval_03-May-2010.tar",
    into=".",
    provides=("JPEGImages",),
    url=f"{VOC}/voc2010/VOCtrainval_03-May-2010.tar",
    checksum="md5:da459979d0c395079b5c75ee67908abb",
)
MERGED_JSON = Source(
    what="outlines and the lists of the splits",
    file=MERGED,
    into="VOCdevkit/VOC2010",
    provides=(MERGED, "SegmentationClassContext", "pascalcontext_val.txt"),
    url=f"https://codalabuser.blob.core.windows.net/public/{MERGED}",
)
SOURCES_459 = tuple(
    Source(
        what=what,
        file=file,
        into="VOCdevkit/VOC2010",
        provides=(provides,),
        url=f"https://roozbehm.info/pascal-context/{file}",
    )
    for what, file, provides in (
        ("labels of 459 classes, 31 MB", "trainval.tar.gz", "trainval"),
        ("the list of 459 classes", "labels.txt", "labels.txt"),
    )
)
COUNTED = "5104 images are evaluated by most; trainval_merged.json lists 5105"


def _context_benchmark(background: bool) -> Benchmark:
    name = "pc60" if background else "pc59"
    rest = "is background 0; none ignored" if background else "is ignored"
    return Benchmark(
        name=name,
        title=f"PASCAL Context, 59 classes {'and' if background else 'without'} background",
        folders=("VOCdevkit/VOC2010", "VOC2010", "pascal_ctx_d2", "pcontext"),
        classes=name,
        rule=f"59 of the 459 numbers in the order of the data set's own list; everything else {rest}; {COUNTED}",
        sources=(VOC2010, MERGED_JSON),
        splits={split: _context(split, background, *counts) for split, counts in COUNTS.items()},
        aliases={} if background else {"val": ("pcontext_sem_seg_val",), "train": ("pcontext_sem_seg_train",)},
        background=0 if background else -1,
        licence=LICENCE,
        paper=CONTEXT,
    )


PC459 = Benchmark(
    name="pc459",
    title="PASCAL Context, 459 classes",
    folders=("VOCdevkit/VOC2010", "VOC2010", "pascal_ctx_d2", "pcontext_full"),
    classes=context_classes,
    rule=f"matrix LabelMap of the MATLAB files counts from 1; 0 is ignored; ids in 16 bits, void 65535; {COUNTED}",
    sources=(VOC2010, *SOURCES_459, MERGED_JSON),
    splits={split: _context459(split, *counts) for split, counts in COUNTS.items()},
    aliases={"val": ("pcontext_full_sem_seg_val",), "train": ("pcontext_full_sem_seg_train",)},
    present=345,
    licence=LICENCE,
    paper=CONTEXT,
)
register(
    _voc_benchmark(False),
    _voc_benchmark(True),
    _context_benchmark(False),
    _context_benchmark(True),
    PC459,
)
