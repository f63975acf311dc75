"""COCO 2017: panoptic segments, COCO-Stuff (164k with 171 classes, and 10k), and COCO-Object."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ovseg.data.benchmarks.base import Benchmark, Decoder, Layout, Place, Source, Split, register
from ovseg.data.benchmarks.labels import LabelSplit, by_value, lines, table_of
from ovseg.data.coco_json import read_coco_json
from ovseg.data.dataset import UNLISTED, VOID, Dataset
from ovseg.data.renaming import Renames, known_renames
from ovseg.errors import InputError

STUFF = "Caesar et al., COCO-Stuff, CVPR 2018"
LICENCE = "annotations CC BY 4.0; images under Flickr's terms"
COUNTS = {"val2017": 5000, "train2017": 118287}
# COCO counts 182 names, of which 11 have no pixel anywhere.
GAPS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)
NUMBERS = [number for number in range(1, 183) if number not in GAPS]
"""COCO's number of each of the 171 classes; the first 80 are the objects."""
PUBLISHED: Renames = {
    "orange": ("orange fruit",),
    "remote": ("tv remote",),
    "light": ("lamp",),
    "net": ("tennis net",),
    "water-other": ("water",),
    "window-blind": ("window blind",),
    "window-other": ("window",),
    **{f"{name}-stuff": (name,) for name in ("door", "mirror")},
    **{f"wall-{name}": (f"{name} wall",) for name in ("brick", "stone", "tile", "wood")},
    "floor-wood": ("wood floor",),
    **{f"{name}-other-merged": (name,) for name in ("sky", "floor", "food", "building", "wall")},
    **{
        f"{name}-merged": (name,)
        for name in (
            *("tree", "fence", "ceiling", "cabinet", "table", "pavement"),
            *("mountain", "grass", "dirt", "paper", "rock", "rug"),
        )
    },
}
"""Names of `coco133` for those of the panoptic JSON files that are no names there."""
IMAGE_SIZES = {"val2017": (815585330, "778 MB"), "train2017": (19336861798, "18 GB")}
STUFF_MAPS = "stuffthingmaps_trainval2017.zip"


def images_of(split: str, into: str = "coco") -> Source:
    """Make the source of a split's photographs."""
    size, words = IMAGE_SIZES[split]
    return Source(
        what=f"images, {words}",
        file=f"{split}.zip",
        into=into,
        provides=(f"{split}/**/*.jpg", f"images/{split}/**/*.jpg"),
        url=f"http://images.cocodataset.org/zips/{split}.zip",
        size=size,
        splits=(split,),
    )


STUFF_SOURCES = (
    images_of("val2017"),
    images_of("train2017"),
    Source(
        what="labels of COCO-Stuff, 660 MB",
        file=STUFF_MAPS,
        into="coco/stuffthingmaps",
        provides=("stuffthingmaps", "stuffthingmaps_detectron2", "annotations/*2017"),
        url=f"http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/{STUFF_MAPS}",
    ),
)


def stuff_table() -> np.ndarray:
    """Return the class (65536,) int32 of the values of COCO-Stuff's label images: its number minus one; 255 is void."""
    return table_of({255: VOID, **{number - 1: place for place, number in enumerate(NUMBERS)}})


def object_table() -> np.ndarray:
    """Return the same for COCO-Object: objects count from 1; stuff, and what is not labelled, is background."""
    stuff = stuff_table()
    return np.where(stuff == UNLISTED, UNLISTED, np.where((stuff >= 0) & (stuff < 80), stuff + 1, 0)).astype(np.int32)


def _stuff_split(split: str) -> LabelSplit:
    own, mmseg = f"{split}/{{}}.jpg", f"images/{split}/{{}}.jpg"
    raw = by_value(stuff_table())
    return LabelSplit(
        COUNTS[split],
        (
            Layout(own, f"stuffthingmaps_detectron2/{split}/{{}}.png"),
            Layout(own, f"stuffthingmaps/{split}/{{}}.png", raw),
            Layout(mmseg, f"annotations/{split}/{{}}_labelTrainIds.png"),
            Layout(mmseg, f"annotations/{split}/{{}}.png", raw),
        ),
    )


def _object_split(split: str) -> LabelSplit:
    raw = by_value(object_table())
    mmseg = f"images/{split}/{{}}.jpg"
    return LabelSplit(
        COUNTS[split],
        (
            Layout(f"{split}/{{}}.jpg", f"stuffthingmaps/{split}/{{}}.png", raw),
            Layout(mmseg, f"annotations/{split}/{{}}_instanceTrainIds.png"),
            Layout(mmseg, f"annotations/{split}/{{}}.png", raw),
        ),
    )


@dataclass(frozen=True)
class PanopticSplit(Split):
    """A split in COCO's panoptic format, read as it is.

    Attributes:
        count: Images that the benchmark has.
        path: The JSON file below the folder.
        images: Folder of the images.
        masks: Usual folders of the PNGs.
    """

    count: int
    path: str
    images: str
    masks: tuple[str, ...]

    def complete(self, folder: Path) -> bool:
        """Whether the JSON file, images and PNGs are there."""
        return not self._absent(folder)

    def require(self, place: Place) -> None:
        """Look for the files; see `Split.require`."""
        absent = self._absent(place.folder)
        if absent:
            raise place.missing(absent)

    def read(self, place: Place) -> Dataset:
        """Read the JSON file; see `Split.read`."""
        masks = next(name for name in self.masks if (place.folder / name).is_dir())
        folder = place.folder
        paths = (folder / self.path, folder / self.images, folder / masks)
        found = read_coco_json(*paths, place.name, subset=place.subset)
        classes = place.classes()
        own = found.renamed(known_renames(found.classes, PUBLISHED)).with_classes(classes)
        if own.dropped or own.classes != classes or len(own.file_classes) != len(classes):
            raise InputError(
                f"'{folder / self.path}' lists {len(found.classes)} categories that are not the {len(classes)} of "
                f"{place.benchmark.name}; fetch the published file again"
            )
        return dataclasses.replace(own, notes=found.notes)

    def _absent(self, folder: Path) -> str:
        """Return the first path that is missing; empty when none is."""
        paths = (self.path, self.images)
        masks = "" if any((folder / name).is_dir() for name in self.masks) else self.masks[0]
        return next((path for path in paths if not (folder / path).exists()), masks)


def _panoptic(split: str) -> PanopticSplit:
    masks = (f"panoptic_{split}", f"annotations/panoptic_{split}")
    return PanopticSplit(COUNTS[split], f"annotations/panoptic_{split}.json", split, masks)


def _mat_decoder(place: Place, pattern: str) -> Decoder:
    """Decode COCO-Stuff 10k: matrix S of a MATLAB file holds COCO's numbers, 0 is not labelled."""
    from ovseg.data.benchmarks.matlab import read_matrix

    table = table_of({0: VOID, **{number: i for i, number in enumerate(NUMBERS)}})

    def decode(stem: str) -> np.ndarray:
        path = place.folder / pattern.format(stem)
        ids: np.ndarray = table[read_matrix(path, "S")]
        if (ids == UNLISTED).any():
            raise InputError(f"label '{path}' holds a number that COCO-Stuff does not have; fetch it again")
        return ids

    return decode


def _stuff10k(split: str, count: int) -> LabelSplit:
    table = table_of({0: VOID, 255: VOID, **{i + 1: i for i in range(len(NUMBERS))}})  # mmsegmentation's, from 1
    listed = f"imageLists/{split}.txt"
    return LabelSplit(
        count,
        (
            Layout("images/{}.jpg", "annotations/{}.mat", _mat_decoder, lines(listed), (listed,)),
            Layout(f"images/{split}2014/{{}}.jpg", f"annotations/{split}2014/{{}}_labelTrainIds.png", by_value(table)),
            Layout(f"images_detectron2/{split}/{{}}.jpg", f"annotations_detectron2/{split}/{{}}.png"),
        ),
    )


register(
    Benchmark(
        name="coco_panoptic",
        title="COCO panoptic 2017, 133 classes",
        folders=("coco",),
        classes="coco133",
        rule="PNG colours are segment ids (R + 256 G + 65536 B), classes are in the JSON file; 0 is ignored",
        sources=(
            images_of("val2017"),
            images_of("train2017"),
            Source(
                what="panoptic annotations, 821 MB",
                file="panoptic_annotations_trainval2017.zip",
                into="coco",
                provides=("annotations/panoptic_*.json", "panoptic_*2017"),
                url="http://images.cocodataset.org/annotations/panoptic_annotations_trainval2017.zip",
                size=860725834,
                inside=tuple(f"coco/annotations/panoptic_{split}.zip" for split in COUNTS),
            ),
        ),
        splits={split: _panoptic(split) for split in COUNTS},
        metric="panoptic",
        licence=LICENCE,
        paper="Kirillov et al., Panoptic Segmentation, CVPR 2019",
    ),
    Benchmark(
        name="coco_stuff",
        title="COCO-Stuff 164k, 171 classes",
        folders=("coco", "coco_stuff164k"),
        classes="coco171",
        rule="8-bit PNG holds COCO's number (1 to 182, 11 of them unused) minus 1; 255 is ignored; ids in that order",
        sources=STUFF_SOURCES,
        splits={split: _stuff_split(split) for split in COUNTS},
        aliases={
            "val2017": ("coco_2017_test_stuff_all_sem_seg", "coco_2017_test_stuff_sem_seg"),
            "train2017": ("coco_2017_train_stuff_all_sem_seg",),
        },
        licence=LICENCE,
        paper=STUFF,
    ),
    Benchmark(
        name="coco_stuff10k",
        title="COCO-Stuff 10k, 171 classes",
        folders=("coco_stuff10k", "coco/coco_stuff_10k"),
        classes="coco171",
        rule="matrix S of the MATLAB files holds COCO's number; 0 is ignored; 171 ids in that order",
        sources=(
            Source(
                what="images and labels, 2 GB",
                file="cocostuff-10k-v1.1.zip",
                into="coco_stuff10k",
                provides=("images", "annotations"),
                url="http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/cocostuff-10k-v1.1.zip",
            ),
        ),
        splits={"test": _stuff10k("test", 1000), "train": _stuff10k("train", 9000)},
        licence=LICENCE,
        paper=STUFF,
    ),
    Benchmark(
        name="coco_object",
        title="COCO-Object, 80 objects and background",
        folders=("coco", "coco_stuff164k"),
        classes="coco81",
        rule="COCO-Stuff's labels: objects are 1 to 80; stuff and what is not labelled are background 0; none ignored",
        sources=STUFF_SOURCES,
        splits={split: _object_split(split) for split in COUNTS},
        background=0,
        licence=LICENCE,
        paper="the first 80 classes of COCO-Stuff as GroupViT (Xu et al., CVPR 2022) evaluates them",
    ),
)
