"""Data sets by name: entries of Detectron2's catalogs, made from folders and from the usual layout of COCO.

A name is that of a benchmark's split, such as ``coco_stuff_train2017`` or ``ade150_val`` (below the folder that the
environment variable DETECTRON2_DATASETS names, else ``datasets``), or the path of a folder (see `ovseg.data.own_data`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from ovseg.data.benchmarks import benchmark_names, data_root, read_benchmark
from ovseg.data.coco_json import read_coco_json
from ovseg.data.dataset import LABEL_VALUES, SEMANTIC, UNLISTED, VOID, Dataset, identity_lookup
from ovseg.data.own_data import read_folder, read_label_pairs
from ovseg.errors import InputError, unknown_name
from ovseg.vocabulary import Vocabulary

COCO_SPLITS = ("train2017", "val2017")
# COCO counts 182 names, of which 11 have no pixel anywhere; stuffthingmaps hold the number minus one.
COCO_GAPS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)


def dataset_names() -> list[str]:
    """Return the names that are known besides folders."""
    return [*(f"coco_{kind}_{split}" for kind in ("panoptic", "stuff") for split in COCO_SPLITS), *benchmark_names()]


def read_dataset(name: str, root: str | os.PathLike[str] | None = None) -> Dataset:
    """Read a data set by name.

    Args:
        name: Of a benchmark's split, or the path of a folder.
        root: Folder of the benchmarks; None is that of the environment.

    Raises:
        InputError: Files are missing or not as they should be.
        UnknownNameError: It is neither a name nor a folder.
    """
    if name in benchmark_names():
        return read_benchmark(name, data_root(root))
    if name in dataset_names():
        _, kind, split = name.split("_")
        reader = _coco_stuff if kind == "stuff" else _coco_panoptic
        return reader(name, data_root(root) / "coco", split)
    if Path(name).expanduser().is_dir() or os.sep in name:
        return read_folder(Path(name).expanduser())
    raise unknown_name("data set (and no folder of that name)", name, dataset_names())


def register_dataset(name: str, root: str | os.PathLike[str] | None = None) -> Dataset:
    """Read a data set and enter it into Detectron2's DatasetCatalog and MetadataCatalog under its name.

    The metadata have ``thing_classes``, ``stuff_classes`` (all names, as semantic evaluators want them),
    ``ignore_label``, ``evaluator_type`` and ``vocabulary``.

    Raises:
        OvsegError: As `read_dataset`.
    """
    from detectron2.data import DatasetCatalog, MetadataCatalog

    dataset = read_dataset(name, root)
    for catalog in (DatasetCatalog, MetadataCatalog):
        catalog.pop(name, None)  # the folder may have changed since
    DatasetCatalog.register(name, partial(_records, dataset))
    MetadataCatalog.get(name).set(
        thing_classes=[entry.name for entry in dataset.classes if entry.is_thing],
        stuff_classes=dataset.classes.names,
        ignore_label=dataset.ignore_label,
        evaluator_type="sem_seg" if dataset.kind == SEMANTIC else "coco_panoptic_seg",
        vocabulary=dataset.classes,
    )
    return dataset


def load_datasets(
    names: Sequence[str], vocabulary: str = "", root: str | os.PathLike[str] | None = None
) -> list[Dataset]:
    """Register several data sets that are learnt from together.

    Args:
        names: Names or folders.
        vocabulary: Words in place of their own (see `Dataset.with_classes`); empty for those of the first one.
        root: Folder of the benchmarks; None is that of the environment.

    Raises:
        InputError: No name was given, or the classes of two differ.
        OvsegError: As `read_dataset`.
    """
    if not names:
        raise InputError("no data set to train on; set DATASETS.TRAIN to names or folders, or give --data FOLDER")
    found = [register_dataset(name, root) for name in names]
    for dataset in found[1:]:
        if dataset.classes != found[0].classes and not vocabulary:
            raise InputError(
                f"'{dataset.name}' and '{found[0].name}' have different classes; expected one list, or set "
                "DATASETS.VOCABULARY to the classes that count"
            )
    return [dataset.with_classes(Vocabulary.parse(vocabulary)) for dataset in found] if vocabulary else found


def _records(dataset: Dataset) -> list[dict[str, object]]:
    return dataset.records


def _coco_panoptic(name: str, root: Path, split: str) -> Dataset:
    """COCO panoptic: annotations/panoptic_SPLIT.json, panoptic_SPLIT/ and SPLIT/."""
    path = root / "annotations" / f"panoptic_{split}.json"
    if not path.is_file():
        raise InputError(
            f"'{path}' is missing; unpack COCO there, or set DETECTRON2_DATASETS to the folder above coco/"
        )
    return read_coco_json(path, root / split, root / f"panoptic_{split}", name)


def _coco_stuff(name: str, root: Path, split: str) -> Dataset:
    """COCO-Stuff, 171 classes: stuffthingmaps_detectron2/SPLIT (ids 0..170) or stuffthingmaps/SPLIT as published."""
    converted = (root / "stuffthingmaps_detectron2" / split).is_dir()
    labels = root / ("stuffthingmaps_detectron2" if converted else "stuffthingmaps") / split
    if not labels.is_dir():
        raise InputError(
            f"'{labels}' is missing; unpack stuffthingmaps_trainval2017.zip of COCO-Stuff there, or set "
            "DETECTRON2_DATASETS to the folder above coco/"
        )
    records, problems = read_label_pairs(root / split, labels)
    classes = Vocabulary.parse("coco171")
    lookup = identity_lookup(len(classes)) if converted else coco_stuff_lookup()
    remap = np.arange(len(classes), dtype=np.int32)
    return Dataset(name, classes, SEMANTIC, records, lookup, remap, tuple(problems))


def coco_stuff_lookup() -> np.ndarray:
    """Return the class (65536,) int32 of the values of COCO-Stuff's published label images."""
    used = [number - 1 for number in range(1, 183) if number not in COCO_GAPS]
    lookup = np.full(LABEL_VALUES, UNLISTED, np.int32)
    lookup[used] = np.arange(len(used))
    lookup[255] = VOID
    return lookup
