"""Data sets by name: entries of Detectron2's catalogs, made from folders and from benchmarks.

A name is that of a benchmark's split, such as ``coco_stuff_train2017`` or ``ade150_val`` (below the folder that the
environment variable DETECTRON2_DATASETS names, else ``datasets``), or the path of a folder (see `ovseg.data.own_data`);
``DIR:FILE.json`` chooses one of several COCO files in a folder.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ovseg.data.benchmarks import benchmark_names, data_root, read_benchmark
from ovseg.data.dataset import SEMANTIC, Dataset
from ovseg.data.own_data import read_folder
from ovseg.data.renaming import known_renames, read_renames
from ovseg.errors import InputError, unknown_name
from ovseg.vocabulary import Vocabulary


def dataset_names() -> list[str]:
    """Return the names that are known besides folders."""
    return list(benchmark_names())


def read_dataset(name: str, root: str | os.PathLike[str] | None = None, whole: bool = True) -> Dataset:
    """Read a data set by name.

    Args:
        name: Of a benchmark's split, the path of a folder, or ``DIR:FILE.json``.
        root: Folder of the benchmarks; None is that of the environment.
        whole: Refuse a part of a benchmark that was not prepared as one (see `read_benchmark`).

    Raises:
        InputError: Files are missing or not as they should be.
        UnknownNameError: It is neither a name nor a folder.
    """
    if name in benchmark_names():
        return read_benchmark(name, data_root(root), whole)
    folder, _, chosen = name.rpartition(":")
    place = Path(os.path.expanduser(name))
    if chosen.endswith(".json") and folder and not place.is_dir():
        return read_folder(Path(os.path.expanduser(folder)), chosen)
    if place.is_dir() or os.sep in name:
        return read_folder(place)
    raise unknown_name("data set (and no folder of that name)", name, dataset_names())


def register_dataset(name: str, root: str | os.PathLike[str] | None = None, whole: bool = True) -> Dataset:
    """Read a data set and enter it into Detectron2's DatasetCatalog and MetadataCatalog under its name.

    The metadata have ``thing_classes``, ``stuff_classes`` (all names, as semantic evaluators want them),
    ``ignore_label``, ``evaluator_type`` and ``vocabulary``.

    Raises:
        OvsegError: As `read_dataset`.
    """
    from detectron2.data import DatasetCatalog, MetadataCatalog

    dataset = read_dataset(name, root, whole)
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


def choose_classes(datasets: Sequence[Dataset], vocabulary: str = "", rename: str = "") -> list[Dataset]:
    """Give data sets other names for their classes, then the classes of a vocabulary; `Dataset.notes` tell what became.

    Args:
        datasets: At least one of them has each class that is renamed.
        vocabulary: Words in place of their own (see `Dataset.with_classes`); empty for those.
        rename: For `ovseg.data.renaming.read_renames`; empty for none.

    Raises:
        OvsegError: As `Dataset.renamed` and `Dataset.with_classes`.
    """
    found = list(datasets)
    if rename:
        renames = read_renames(rename)
        known = [known_renames(dataset.classes, renames) for dataset in found]
        nowhere = {old: new for old, new in renames.items() if not any(old in own for own in known)}
        for dataset in found if nowhere else ():
            dataset.renamed(nowhere)  # it says which names there are
        found = [dataset.renamed(own) if own else dataset for dataset, own in zip(found, known, strict=True)]
    if vocabulary:
        words = Vocabulary.parse(vocabulary)
        found = [dataset.with_classes(words) for dataset in found]
    return found


def load_datasets(
    names: Sequence[str],
    vocabulary: str = "",
    root: str | os.PathLike[str] | None = None,
    rename: str = "",
    whole: bool = True,
) -> list[Dataset]:
    """Register several data sets that are learnt from together.

    Args:
        names: Names or folders.
        vocabulary: Words in place of their own (see `Dataset.with_classes`); empty for those of the first one.
        root: Folder of the benchmarks; None is that of the environment.
        rename: Other names for their classes (see `choose_classes`); empty for none.
        whole: As for `read_dataset`.

    Raises:
        InputError: No name was given, or the classes of two differ.
        OvsegError: As `read_dataset` and `choose_classes`.
    """
    if not names:
        raise InputError("no data set to train on; set DATASETS.TRAIN to names or folders, or give --data FOLDER")
    found = choose_classes([register_dataset(name, root, whole) for name in names], vocabulary, rename)
    for dataset in found[1:]:
        if dataset.classes != found[0].classes and not vocabulary:
            raise InputError(
                f"'{dataset.name}' and '{found[0].name}' have different classes; expected one list, or set "
                "DATASETS.VOCABULARY to the classes that count"
            )
    return found


def _records(dataset: Dataset) -> list[dict[str, object]]:
    return dataset.records
