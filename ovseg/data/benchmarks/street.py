"""Street scenes: Cityscapes and Mapillary Vistas."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ovseg.data.benchmarks.base import Benchmark, Decoder, Layout, Place, Rule, Source, register
from ovseg.data.benchmarks.labels import LabelSplit, by_value, table_of
from ovseg.data.benchmarks.names import distinct
from ovseg.data.dataset import VOID, read_label_image
from ovseg.errors import InputError
from ovseg.vocabulary import Vocabulary

# Cityscapes' label ids of its 19 evaluated classes, in the order of their train ids; 34 ids in all.
EVALUATED = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
CITYSCAPES_PAGE = "https://www.cityscapes-dataset.com/downloads"


def cityscapes_table() -> np.ndarray:
    """Return the train id (65536,) int32 of each label id; other ids and 255 (licence plates) are void."""
    return table_of({**dict.fromkeys((*range(34), 255), VOID), **{one: i for i, one in enumerate(EVALUATED)}})


def _cityscapes(split: str, count: int) -> LabelSplit:
    images, labels = f"leftImg8bit/{split}/{{}}_leftImg8bit.png", f"gtFine/{split}/{{}}_gtFine_"
    raw = Layout(images, f"{labels}labelIds.png", by_value(cityscapes_table()))
    return LabelSplit(count, (raw, Layout(images, f"{labels}labelTrainIds.png")))


CITYSCAPES = Benchmark(
    name="cityscapes",
    title="Cityscapes, 19 classes",
    folders=("cityscapes",),
    classes="cityscapes19",
    rule="labelIds.png holds 34 ids; 19 of them are evaluated, in the order of their train ids, the others are ignored",
    sources=tuple(
        Source(what=what, file=file, into="cityscapes", provides=(provides,), page=CITYSCAPES_PAGE)
        for what, file, provides in (
            ("images (11 GB, after registration)", "leftImg8bit_trainvaltest.zip", "leftImg8bit"),
            ("fine labels (241 MB, after registration)", "gtFine_trainvaltest.zip", "gtFine"),
        )
    ),
    splits={"val": _cityscapes("val", 500), "train": _cityscapes("train", 2975)},
    aliases={"val": ("cityscapes_fine_sem_seg_val",), "train": ("cityscapes_fine_sem_seg_train",)},
    licence="non-commercial",
    paper="Cordts et al., The Cityscapes Dataset for Semantic Urban Scene Understanding, CVPR 2016",
)

CONFIGS = ("config_v1.2.json", "config.json")
UNLABELLED = 65


def vistas_labels(folder: Path) -> list[dict[str, Any]]:
    """Return the 66 labels of Mapillary Vistas 1.2 from its own config file.

    Raises:
        InputError: The file is missing or broken, or lists other labels.
    """
    path = next((folder / name for name in CONFIGS if (folder / name).is_file()), folder / CONFIGS[0])
    try:
        labels: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["labels"]
        if len(labels) == UNLABELLED + 1 and not labels[UNLABELLED]["evaluate"]:
            return labels
        reason = f"{len(labels)} labels"
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error)[:100]
    raise InputError(
        f"'{path}' is not the config of Mapillary Vistas 1.2 ({reason}); expected 66 labels, the last not evaluated: "
        "unpack the archive again"
    )


def vistas_classes(count: int, folder: Path) -> Vocabulary:
    """Read the first classes, in lower case; those with instances are things."""
    labels = vistas_labels(folder)[:count]
    names = distinct([[label["readable"].lower()] for label in labels])
    flags = [bool(label["instances"]) for label in labels]
    return Vocabulary.parse([{"name": one[0], "is_thing": flag} for one, flag in zip(names, flags, strict=True)])


def _instances(table: np.ndarray) -> Rule:
    """Make the rule of Mapillary's 16-bit instance images: the class is the value div 256."""
    return partial(_instance_decoder, table)


def _instance_decoder(table: np.ndarray, place: Place, pattern: str) -> Decoder:
    def decode(stem: str) -> np.ndarray:
        path = place.folder / pattern.format(stem)
        values, bits = read_label_image(path)
        if bits != 16 or (values >> 8).max(initial=0) > UNLABELLED:
            raise InputError(f"label '{path}' is no 16-bit image of class * 256 + instance; unpack its archive again")
        ids: np.ndarray = table[values.astype(np.int32) >> 8]
        return ids

    return decode


def _vistas(split: str, count: int, classes: int) -> LabelSplit:
    images, config = f"{split}/images/{{}}.jpg", ("|".join(CONFIGS),)
    table = table_of({UNLABELLED: VOID, **{i: i for i in range(classes)}})
    rules = {"labels": by_value(table), "instances": _instances(table)}
    layouts = (
        Layout(images, f"{split}/{version}{kind}/{{}}.png", rule, needs=config)
        for kind, rule in rules.items()
        for version in ("v1.2/", "")
    )
    return LabelSplit(count, tuple(layouts))


def _vistas_benchmark(classes: int) -> Benchmark:
    last = "65 (unlabelled) is a class" if classes > UNLABELLED else "65 (unlabelled) is ignored"
    return Benchmark(
        name=f"mapillary{classes}",
        title=f"Mapillary Vistas 1.2, {classes} classes",
        folders=("mapillary_vistas", "mapillary", "MapillaryVistas"),
        classes=partial(vistas_classes, classes),
        rule=f"8-bit palette PNG of class ids, else the 16-bit instance PNG (class * 256 + instance); {last}",
        sources=(
            Source(
                what="Mapillary Vistas (20 GB, research licence, link by mail)",
                file="mapillary-vistas-dataset_public_v2.0.zip",
                into="mapillary_vistas",
                provides=("config_v1.2.json", "config.json", "validation", "training"),
                page="https://www.mapillary.com/dataset/vistas",
            ),
        ),
        splits={"val": _vistas("validation", 2000, classes), "train": _vistas("training", 18000, classes)},
        aliases={"val": ("mapillary_vistas_sem_seg_val",)} if classes == UNLABELLED else {},
        licence="CC BY-NC-SA 4.0",
        paper="Neuhold et al., The Mapillary Vistas Dataset for Semantic Understanding of Street Scenes, ICCV 2017",
    )


register(CITYSCAPES, _vistas_benchmark(65), _vistas_benchmark(66))
