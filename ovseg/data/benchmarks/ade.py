"""ADE20K: the 150 classes of scene parsing."""

from __future__ import annotations

from ovseg.data.benchmarks.base import Benchmark, Layout, Source
from ovseg.data.benchmarks.labels import LabelSplit, by_value, counted_from_one

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

BENCHMARKS = (ADE150,)
