"""MVTec AD: damage on fifteen kinds of products, as one prompt for each kind.

How sure this is: layout, kinds and counts are those of the publishers (467 sound and 1258 damaged test images in all).
The words of the prompts are ours, for the data set has none: ``--vocabulary`` gives others.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ovseg.data.benchmarks.base import Benchmark, Place, Source, Split, exists, register
from ovseg.data.dataset import PROMPTS, Dataset, identity_lookup
from ovseg.vocabulary import Vocabulary

SOUND = "good"
COUNTS = {
    "bottle": (20, 63),
    "cable": (58, 92),
    "capsule": (23, 109),
    "carpet": (28, 89),
    "grid": (21, 57),
    "hazelnut": (40, 70),
    "leather": (32, 92),
    "metal_nut": (22, 93),
    "pill": (26, 141),
    "screw": (41, 119),
    "tile": (33, 84),
    "toothbrush": (12, 30),
    "transistor": (60, 40),
    "wood": (19, 60),
    "zipper": (32, 119),
}
"""Sound and damaged test images of each kind."""


@dataclass(frozen=True)
class DamageSplit(Split):
    """The test images of a kind of product, each asked for its damage.

    Attributes:
        count: Images that the benchmark has.
        kind: Name of its folder.
    """

    count: int
    kind: str

    def complete(self, folder: Path) -> bool:
        """Whether images and masks are there."""
        return not self._absent(folder)

    def require(self, place: Place) -> None:
        """Look for the files; see `Split.require`."""
        if absent := self._absent(place.folder):
            raise place.missing(absent[0])

    def classes(self, place: Place) -> Vocabulary:
        """Return the prompt."""
        return Vocabulary.parse([f"damage on a {self.kind.replace('_', ' ')}"])

    def read(self, place: Place) -> Dataset:
        """List the images; see `Split.read`."""
        records: list[dict[str, Any]] = []
        problems = []
        for path in sorted((place.folder / self.kind / "test").glob("*/*.png")):
            damage = path.parent.name
            mask = place.folder / self.kind / "ground_truth" / damage / f"{path.stem}_mask.png"
            if damage != SOUND and not mask.is_file():
                if not place.subset:
                    problems.append(f"mask '{mask}' is missing; unpack the archive again")
                continue
            annotation = {"category_id": 0, "mask_file_name": "" if damage == SOUND else str(mask)}
            name = f"{self.kind}/{damage}/{path.stem}"
            records.append({"file_name": str(path), "image_id": name, "annotations": [annotation]})
        remap = np.zeros(1, np.int32)
        root = str(place.folder / self.kind / "test")
        return Dataset(
            place.name, place.classes(), PROMPTS, records, identity_lookup(1), remap, tuple(problems), root=root
        )

    def _absent(self, folder: Path) -> list[str]:
        """Return the patterns that nothing fits."""
        patterns = (f"{self.kind}/test/*/*.png", f"{self.kind}/ground_truth/*/*_mask.png")
        return [pattern for pattern in patterns if not exists(folder, pattern)]


register(
    Benchmark(
        name="mvtec",
        title="MVTec AD, damage as a prompt",
        folders=("mvtec_anomaly_detection", "mvtec_ad", "MVTec", "mvtec"),
        classes=Vocabulary.parse(["damage"]),
        rule=(
            "the prompt is 'damage on a KIND' (our words; --rename gives others) and all of the mask but 0 is the "
            "damage; sound images have empty masks"
        ),
        sources=(
            Source(
                what="the whole set, 4.9 GB (after a form)",
                file="mvtec_anomaly_detection.tar.xz",
                into="mvtec_anomaly_detection",
                provides=tuple(COUNTS),
                page="https://www.mvtec.com/company/research/datasets/mvtec-ad",
            ),
        ),
        splits={kind: DamageSplit(sum(counts), kind) for kind, counts in COUNTS.items()},
        metric="prompts",
        licence="CC BY-NC-SA 4.0",
        paper="Bergmann et al., The MVTec Anomaly Detection Dataset, IJCV 2021",
    ),
)
