"""A segmentation data set on disk: its classes, its files, and how one image's masks are read.

Whatever the layout, the masks of an image become one map of segments and a class for each segment, so that resizing,
cropping and flipping are written once.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ovseg.data.mask_files import read_label_image, read_segment_ids
from ovseg.data.matching import Match, counted, listed, match_classes
from ovseg.data.outlines import called, draw_outline
from ovseg.data.renaming import rename_classes
from ovseg.errors import InputError
from ovseg.vocabulary import Vocabulary
from ovseg.vocabulary.names import fold

SEMANTIC, PANOPTIC, INSTANCE, PROMPTS = "semantic", "panoptic", "instance", "prompts"
BACKGROUND_NAMES = frozenset({"background", "other", "others", "unlabelled", "unlabeled", "void", "nothing"})
"""Names by which data sets call what is none of their classes."""
VOID, UNLISTED = -1, -2  # in `Dataset.lookup`: a pixel of no class; a value that should not occur
LABEL_VALUES = 65536


@dataclass(frozen=True, eq=False)
class Segments:
    """The masks of one image; they do not overlap.

    Attributes:
        ids: (H, W) int32, position of each pixel's segment in `classes`; -1 void.
        classes: Class (S,) int64 of each segment.
        crowd: (S,) bool, whether it is a crowd of unseparated objects (COCO).
        dropped: (F,) int64, pixels of each class of the files that the data set leaves out, 0 for the others; empty
            where it leaves out none.
        empty: Lines on segments and outlines that the files list and that no pixel shows; they are not there.
    """

    ids: np.ndarray
    classes: np.ndarray
    crowd: np.ndarray
    dropped: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    empty: tuple[str, ...] = ()

    def semantic(self) -> np.ndarray:
        """Return the class (H, W) int32 of each pixel; -1 void."""
        return np.append(self.classes, VOID).astype(np.int32)[self.ids]


@dataclass(frozen=True, eq=False)
class Dataset:
    """The classes and files of one split.

    Attributes:
        name: In the catalogs, and in messages.
        classes: What is learnt; the position of a class is its id.
        kind: ``semantic`` (label images), ``panoptic`` (segment images and JSON), ``instance`` (outlines in JSON) or
            ``prompts`` (each image brings its own words as annotations, whose masks may overlap; see
            `ovseg.data.outlines.draw_outline`).
        records: Detectron2's dataset dicts, one per image; ``category_id`` counts from 0 in the order of the files.
        lookup: Class (65536,) int32 of each value of a label image; VOID and UNLISTED are negative.
        remap: Class (K,) int32 of `classes` for each class of the files; VOID where it is left out.
        problems: What was found to be wrong while the files were listed, one line each: data that mean something else,
            images that cannot be used. Training refuses it.
        left_out: What was found to be wrong and got around, one line each: an annotation that is left out, an id that
            is taken as the same. Training and evaluation say it and go on with the rest.
        file_classes: Those of the files, for which `remap` has a place each: `classes`, until others are put in place.
        notes: What the reader of any result should know and what is no fault: classes matched by a synonym, renamed or
            dropped, a chosen part of a benchmark. One line each; logs and reports repeat them.
        root: Folder of the images, below which each has its name (`image_name`); where it is left out, the innermost
            one that holds them all.
        rest: Class of `classes` that stands for anything else, -1 where none does; None where only its name can tell.
    """

    name: str
    classes: Vocabulary
    kind: str
    records: list[dict[str, Any]]
    lookup: np.ndarray
    remap: np.ndarray
    problems: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    root: str = ""
    rest: int | None = None
    file_classes: Vocabulary = None  # type: ignore[assignment]  # never None once it is made

    def __post_init__(self) -> None:
        """Find root and classes of the files where they were left out; data sets made from this one keep them."""
        if self.file_classes is None:
            object.__setattr__(self, "file_classes", self.classes)
        if not self.root and self.records:
            folders = {str(Path(record["file_name"]).parent) for record in self.records}
            object.__setattr__(self, "root", os.path.commonpath(folders))

    @property
    def rest_class(self) -> int:
        """The class that stands for anything else: `rest`, or else the only one with such a name; -1 for none."""
        if self.rest is not None:
            return self.rest
        found = [place for place, name in enumerate(self.classes.names) if fold(name) in BACKGROUND_NAMES]
        return found[0] if len(found) == 1 and len(self.classes) > 1 else VOID

    def image_name(self, record: dict[str, Any]) -> str:
        """Return what an image is called in logs and files: its path below `root`, with its suffix and forward slashes.

        No two images of a data set share one, which stems and file names do not promise.
        """
        return Path(os.path.relpath(record["file_name"], self.root)).as_posix()

    @property
    def ignore_label(self) -> int:
        """The value of void pixels in ``sem_seg``: 255 as in Detectron2, 65535 where 255 may be a class."""
        return 255 if len(self.classes) <= 255 else 65535

    @property
    def dropped(self) -> list[str]:
        """Names of the classes of the files that are left out; their pixels are void."""
        return [entry.name for entry, place in zip(self.file_classes, self.remap, strict=True) if place < 0]

    def tell_dropped(self, pixels: np.ndarray, total: int) -> list[str]:
        """Return a line that says how much is left out; none where nothing is.

        Args:
            pixels: (F,) integers, sum of `Segments.dropped` over images; empty counts as 0 for each.
            total: All pixels of these images.
        """
        lost = np.flatnonzero(self.remap < 0)
        if not len(lost) or not total:
            return []
        counts = np.zeros(len(self.remap), np.int64) if not len(pixels) else np.asarray(pixels)
        names = [self.file_classes[place].name for place in sorted(lost.tolist(), key=lambda i: -int(counts[i]))]
        share = f"{100 * int(counts.sum()) / total:.1f} % of the pixels"
        return [f"dropped {counted(len(lost), 'class', 'classes')} ({listed(names)}): {share}"]

    def with_classes(self, vocabulary: Vocabulary) -> Dataset:
        """Return the data set with the classes of a vocabulary, matched by name and synonym (see `match_classes`).

        Raises:
            InputError: No class has a name of the vocabulary, or one fits several of its classes.
        """
        return self._moved(match_classes(self.classes, vocabulary, self.name, self.kind == PANOPTIC))

    def renamed(self, renames: Mapping[str, tuple[str, ...]]) -> Dataset:
        """Return the data set with other names for some classes (see `ovseg.data.renaming.rename_classes`).

        Raises:
            OvsegError: There is no class of such a name, or a new name cannot be used.
        """
        return self._moved(rename_classes(self.classes, renames, self.name))

    def _moved(self, match: Match) -> Dataset:
        moved = np.append(match.places, VOID).astype(np.int32)
        rest = None if self.rest is None else int(moved[self.rest])
        notes = (*self.notes, *match.notes)
        return replace(self, classes=match.classes, remap=moved[self.remap], notes=notes, rest=rest)

    def read_segments(self, record: dict[str, Any], size: tuple[int, int]) -> Segments:
        """Read the masks of one image.

        Args:
            record: One of `records`.
            size: Height and width of the image; the masks must have it.

        Raises:
            InputError: A file is missing, broken, of another size, or has ids that are not in the list.
        """
        if self.kind in (INSTANCE, PROMPTS):
            found = _draw_outlines(record, size)
        elif self.kind == PANOPTIC:
            found = _read_panoptic(record)
        else:
            found = self._read_labels(record)
        if found.ids.shape != size:
            raise InputError(
                f"masks of '{record['file_name']}' are {found.ids.shape[1]}x{found.ids.shape[0]} pixels, the image "
                f"{size[1]}x{size[0]}; expected equal sizes, make them anew from this image"
            )
        classes = self.remap[found.classes].astype(np.int64)
        dropped = self._count_dropped(found)
        kept = np.flatnonzero(classes >= 0)
        first, own = self._joined(classes[kept], found.crowd[kept])
        places = np.full(len(classes) + 1, VOID, np.int32)
        places[kept] = own
        return Segments(places[found.ids], classes[kept][first], found.crowd[kept][first], dropped, found.empty)

    def _joined(self, classes: np.ndarray, crowd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Make one segment of those whose classes were merged, where the data do not tell objects apart.

        Returns:
            The first one (N,) of each segment that is left, and for each (S,) of `classes` which of these it is in.
        """
        merged = np.bincount(self.remap[self.remap >= 0], minlength=len(self.classes)) > 1
        whole = np.array([self.kind == SEMANTIC or not entry.is_thing for entry in self.classes]) & merged
        places: dict[Any, int] = {}
        own = [
            places.setdefault((one, flag) if whole[one] else (one, flag, place), len(places))
            for place, (one, flag) in enumerate(zip(classes.tolist(), crowd.tolist(), strict=True))
        ]
        return np.unique(np.array(own, np.int64), return_index=True)[1], np.array(own, np.int32)

    def _count_dropped(self, found: Segments) -> np.ndarray:
        """Return the pixels of each class of the files that is left out; see `Segments.dropped`."""
        count = len(self.remap)
        if (self.remap >= 0).all():
            return np.zeros(0, np.int64)
        pixels = np.bincount((found.semantic() + 1).ravel(), minlength=count + 1)[1:]
        return np.where(self.remap < 0, pixels, 0).astype(np.int64)

    def _read_labels(self, record: dict[str, Any]) -> Segments:
        """Read a label image: one segment per class."""
        path = record["sem_seg_file_name"]
        values, bits = read_label_image(path)
        count = len(self.remap)
        if bits == 8 and count > 255:
            raise InputError(
                f"label '{path}' has 8 bits, which hold 255 classes and void; the list has {count}: save 16-bit PNG"
            )
        mapped = self.lookup[values]
        if (mapped == UNLISTED).any():
            wrong = values[mapped == UNLISTED]
            raise InputError(
                f"label '{path}' holds the value {wrong[0]} ({(wrong == wrong[0]).sum()} pixels); expected 0 to "
                f"{count - 1}, or {'65535' if count > 255 else '255 or 65535'} for void"
            )
        areas = np.bincount((mapped + 1).ravel(), minlength=count + 1)[1:]
        present = np.flatnonzero(areas)
        places = np.full(count + 1, VOID, np.int32)
        places[present] = np.arange(len(present))
        return Segments(places[mapped], present, np.zeros(len(present), bool))


def missing_image(path: str) -> str:
    """Return the line on an image that is listed and not there."""
    return f"image '{path}' is missing; put it there, or take it from the list of images"


def identity_lookup(count: int) -> np.ndarray:
    """Return the lookup of labels whose values are class ids; 65535, and 255 where that is no class, are void."""
    lookup = np.full(LABEL_VALUES, UNLISTED, np.int32)
    lookup[:count] = np.arange(count)
    lookup[[65535] if count > 255 else [255, 65535]] = VOID
    return lookup


def _read_panoptic(record: dict[str, Any]) -> Segments:
    """Read the segments of a panoptic picture that have pixels, and their classes."""
    path, infos = record["pan_seg_file_name"], record["segments_info"]
    ids = read_segment_ids(path)
    present, inverse = np.unique(ids, return_inverse=True)
    listed_ids = set(present.tolist())
    shown = [info for info in infos if info["id"] in listed_ids]
    places = {info["id"]: place for place, info in enumerate(shown)} | dict.fromkeys(record.get("void_ids", ()), VOID)
    unknown = [int(one) for one in present if one and int(one) not in places]
    if unknown:
        raise InputError(
            f"panoptic mask '{path}' shows segment {unknown[0]}, which its JSON does not list; mend either"
        )
    to_place = np.array([places.get(int(one), VOID) for one in present], np.int32)
    classes = np.array([info["category_id"] for info in shown], np.int64)
    crowd = np.array([bool(info.get("iscrowd", 0)) for info in shown], bool)
    empty = [
        f"panoptic mask '{path}' has no pixel of segment {info['id']}, which its JSON lists; delete it there or draw it"
        for info in infos
        if info["id"] not in places
    ]
    return Segments(to_place[inverse.reshape(ids.shape)], classes, crowd, empty=tuple(empty))


def _draw_outlines(record: dict[str, Any], size: tuple[int, int]) -> Segments:
    """Draw the annotations of an image, the smallest objects on top."""
    masks = [draw_outline(record, annotation, size) for annotation in record["annotations"]]
    areas = [int(mask.sum()) for mask in masks]
    ids = np.full(size, VOID, np.int32)
    for place in sorted(range(len(masks)), key=lambda i: -areas[i]):
        ids[masks[place]] = place
    classes = np.array([one["category_id"] for one in record["annotations"]], np.int64)
    crowd = np.array([bool(one.get("iscrowd", 0)) for one in record["annotations"]], bool)
    empty = [
        f"{called(one)} of '{record['file_name']}' has no pixel in the image; delete it or draw it again"
        for one, area in zip(record["annotations"], areas, strict=True)
        if not area and "segmentation" in one
    ]
    return Segments(ids, classes, crowd, empty=tuple(empty))
