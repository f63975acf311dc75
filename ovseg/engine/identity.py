"""What a run is made of, by content: settings, classes, images, labels, weights; and what of it has changed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from ovseg.checkpoint.hashing import hash_tensors
from ovseg.checkpoint.run_files import EARLIER
from ovseg.checkpoint.trained import trained_state
from ovseg.config import new_key
from ovseg.data.contents import Contents, differences, read_contents, write_contents
from ovseg.errors import InputError
from ovseg.system.values import changes, dump, flat, short_hash

if TYPE_CHECKING:
    from detectron2.config import CfgNode

DATA = "data.jsonl"
"""File in the folder of a run with the files that it is trained on; the checkpoint has the hash of what it says."""
FREE = ("MODEL.DEVICE", "SOLVER.MAX_ITER", "SOLVER.CHECKPOINT_PERIOD", "SOLVER.LOG_PERIOD")
"""What may differ between the parts of one run."""
NAMES = (
    "DATASETS.TRAIN",
    "DATASETS.VOCABULARY",
    "DATASETS.RENAME",
    "MODEL.WEIGHTS",
    "MODEL.CLIP.FOLDER",
    "MODEL.CLIP.PRETRAINED",
)
"""What names something that is compared by its content, where the run has recorded that."""
WEIGHTS = {
    "frozen": "frozen weights",
    "clip": "weights of CLIP (MODEL.CLIP)",
    "start": "weights that it started from (MODEL.WEIGHTS)",
}


@dataclass(frozen=True, eq=False)
class Identity:
    """What a run is made of.

    Attributes:
        settings: JSON by dotted key, see `run_settings`.
        weights: Hashes, see `WEIGHTS`.
        data: What it is trained on.
    """

    settings: dict[str, str]
    weights: dict[str, str]
    data: Sequence[Contents]

    def saved(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of it."""
        return {"settings": self.settings, "weights": self.weights, "data": self.digest}

    @property
    def digest(self) -> str:
        """16 hex digits for all images, labels and classes, in order."""
        parts = [
            [
                one.kind,
                one.classes.to_json(),
                one.values,
                [[name, *_hashes(image)] for name, image in one.images.items()],
            ]
            for one in self.data
        ]
        return short_hash(dump(parts))

    def changes(self, saved: Mapping[str, Any], folder: Path) -> list[str]:
        """Say what is not as it was when a checkpoint was saved.

        Args:
            saved: Of that checkpoint: what `saved` gave.
            folder: Of the run.

        Returns:
            One line each.
        """
        begun = {new_key(key): value for key, value in saved["settings"].items()}
        names = {*NAMES} if "data" in saved else set()
        free = {*FREE} - self.settings.keys() | names  # what is recorded although it is free ordinarily counts
        was, is_ = ({key: one[key] for key in one if key not in free} for one in (begun, self.settings))
        found = changes(was, is_)
        if "data" not in saved:
            return [*found, "images, labels, classes and frozen weights: an earlier version has not recorded them"]
        for key, was in saved["weights"].items():
            if was != self.weights.get(key):
                found.append(f"{WEIGHTS[key]}: were {was or 'random'}, are {self.weights.get(key) or 'random'}")
        if saved["data"] != self.digest:
            found += self._data_changes(folder) or ["training data: are others than they were"]
        return found

    def _data_changes(self, folder: Path) -> list[str]:
        try:
            before = read_contents(folder / DATA)
        except InputError as error:
            return [f"training data: are others than they were ({error})"]
        if len(before) != len(self.data):
            return [f"training data: were {len(before)} data sets, are {len(self.data)}"]
        pairs = zip(before, self.data, strict=True)
        lines = [line for was, now in pairs for line in differences(was, now)]
        return list(dict.fromkeys(lines))

    def write(self, folder: Path) -> None:
        """Write the files into the folder of the run.

        Raises:
            InputError: They cannot be written.
        """
        write_contents(folder / DATA, self.data)


def trained_on(run: Path) -> set[str]:
    """Return the hashes of all images that the weights in the folder of a run were trained on; none for other folders.

    Raises:
        InputError: Its files are broken.
    """
    parts = read_contents(run / DATA) if (run / DATA).is_file() else []
    return {one.image.hash for part in parts for one in part.images.values()} | trained_before(run)


def trained_before(run: Path) -> set[str]:
    """Return those of them that the weights were trained on before the run.

    Raises:
        InputError: The file is broken.
    """
    path = run / EARLIER
    try:
        return set(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else set()
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"'{path}' cannot be read ({error}); expected what the run has written") from error


def _hashes(image: Any) -> list[Any]:
    return [image.image.hash, [one.hash for one in image.truth], image.record]


def weight_hashes(model: nn.Module, started: bool) -> dict[str, str]:
    """Return what tells apart the weights with which a training starts; what is random in it follows from the seed.

    A CLIP that is tuned is known by its frozen weights: the others are those of the run, once it has begun.

    Args:
        model: As it was built.
        started: Whether its trained part came from a file.
    """
    trained = trained_state(model)
    frozen = [(key, value) for key, value in model.state_dict().items() if key not in trained]
    tuned = any(name.startswith("clip.") for name in trained)
    clip = "" if tuned else getattr(getattr(model, "clip", None), "weights_hash", "")
    return {
        "frozen": hash_tensors(frozen),
        "clip": clip,
        "start": hash_tensors(trained.items()) if started else "",
    }


def run_settings(cfg: CfgNode) -> dict[str, str]:
    """Return what a run depends on by dotted key, as JSON."""
    wanted = ("MODEL", "INPUT", "SOLVER", "SEED", "DATASETS.TRAIN", "DATASETS.VOCABULARY", "DATASETS.RENAME")
    # What a step counts in the Beta average depends on how many there are.
    free = [key for key in FREE if not (cfg.SOLVER.BETA_AVERAGE.ENABLED and key == "SOLVER.MAX_ITER")]
    return {
        key: json.dumps(value, default=str)
        for key, value in flat(cfg).items()
        if key.startswith(wanted) and key not in free and not isinstance(value, Mapping)
    }
