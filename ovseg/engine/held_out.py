"""Images of the training data that are held out for validation: a seeded share, the same at every resume."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ovseg.errors import ConfigError, InputError
from ovseg.system.files import atomic_write
from ovseg.system.values import dump, short_hash

HELD_OUT = "held_out.json"


def is_share(name: str) -> bool:
    """Tell whether an entry of ``DATASETS.TEST`` is a share of the training images, such as ``10%``.

    Raises:
        ConfigError: It is one, and not between 0 and 100 %.
    """
    if not re.fullmatch(r"-?\d+(\.\d+)?\s*%?", name) or (not name.endswith("%") and Path(name).exists()):
        return False
    if not name.endswith("%"):
        raise ConfigError(f"validation on '{name}'; expected a folder, a data set, or a share such as {name or 10}%")
    if not 0 < float(name[:-1]) < 100:
        raise ConfigError(f"validation on {name} of the training images; expected more than 0% and less than 100%")
    return True


@dataclass(frozen=True)
class HeldOut:
    """What was held out.

    Attributes:
        share: As it was asked for.
        seed: Of the run.
        images: Names of images by data set.
    """

    share: str
    seed: int
    images: dict[str, list[str]]

    def write(self, folder: Path) -> None:
        """Write ``held_out.json``.

        Raises:
            InputError: The place cannot be written to.
        """
        with atomic_write(folder / HELD_OUT) as temporary:
            content = {"share": self.share, "seed": self.seed, "images": self.images}
            temporary.write_text(dump(content, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> HeldOut | None:
        """Read what a run in the folder has held out; None where there is no such file.

        Raises:
            InputError: It is broken.
        """
        path = folder / HELD_OUT
        if not path.is_file():
            return None
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"'{path}' cannot be read ({error}); expected what the run has written") from error


def draw(hashes: Sequence[str], places: Sequence[int], share: str, seed: int, what: str) -> list[int]:
    """Draw images to hold out, by what they show: not by their order, and equal pictures stay together.

    Args:
        hashes: Of the files of all images.
        places: Those that can be used.
        share: Such as ``10%``; at least one image is drawn.
        seed: Of the run.
        what: Name of the data set, for messages.

    Returns:
        Places in ascending order.

    Raises:
        InputError: There would be no image left to train on.
    """
    lots = {place: short_hash(f"{seed} {hashes[place]}") for place in places}
    order = sorted(places, key=lambda place: (lots[place], place))
    wanted = max(1, round(len(places) * float(share[:-1]) / 100))
    last = lots[order[min(wanted, len(order)) - 1]] if order else ""
    drawn = sorted(place for place in places if lots[place] <= last)
    if len(drawn) >= len(places):
        raise InputError(
            f"'{what}' has {len(places)} images, and {share} of them are held out: none is left to train on; give "
            "other images to validate on by --val DIR"
        )
    return drawn
