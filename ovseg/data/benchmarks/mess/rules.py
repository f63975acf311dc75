"""Label rules that one data set of MESS alone has, and how its images are listed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ovseg.data.benchmarks.base import Decoder, Place, Rule
from ovseg.data.benchmarks.labels import by_value
from ovseg.data.benchmarks.pictures import Colour, by_colour, read_picture
from ovseg.data.dataset import VOID
from ovseg.errors import InputError
from ovseg.vocabulary import Vocabulary

Listing = Callable[[Path], list[str]]


def dark_zurich(table: np.ndarray) -> Rule:
    """Make the rule of Cityscapes' ids with a second picture of pixels that even people cannot tell."""
    return partial(_dark_zurich, table)


def _dark_zurich(table: np.ndarray, place: Place, pattern: str) -> Decoder:
    decode, unknown = by_value(table)(place, pattern), pattern.replace("labelIds", "invGray")

    def decode_known(stem: str) -> np.ndarray:
        ids = decode(stem)
        return np.where(read_picture(place.folder / unknown.format(stem), "L") == 255, VOID, ids).astype(np.int32)

    return decode_known


def people(place: Place, folder: str) -> Decoder:
    """Decode MHP: a label image for each person, of which the largest class wins."""

    def decode(stem: str) -> np.ndarray:
        paths = sorted((place.folder / folder).glob(f"{stem}_*.png"))
        if not paths:
            raise InputError(f"labels '{place.folder / folder / stem}_*.png' are missing; unpack the archive again")
        ids: np.ndarray = np.max([read_picture(path, "L") for path in paths], axis=0).astype(np.int32)
        return ids

    return decode


def beside_images(classes: Mapping[Colour, int]) -> Rule:
    """Make the rule of UAVid: colours, in folders ``Labels`` beside ``Images``."""

    def rule(place: Place, folder: str) -> Decoder:
        decode = by_colour(classes)(place, f"{folder}/{{}}.png")
        return lambda stem: decode(stem.replace("/Images/", "/Labels/"))

    return rule


def in_images(folder: str) -> Listing:
    """Make the list of UAVid's images."""

    def listed(root: Path) -> list[str]:
        found = (root / folder).glob("*/Images/*.png")
        return [path.relative_to(root / folder).with_suffix("").as_posix() for path in found]

    return listed


def after_first(count: int) -> Listing:
    """Make the list of all JPEGs but the first ones by name."""
    return lambda folder: [path.stem for path in sorted(folder.glob("*.jpg"))[count:]]


def birds(place: Place, pattern: str) -> Decoder:
    """Decode CUB-200: most of five people saw a bird there, and the folder says which."""

    def decode(stem: str) -> np.ndarray:
        seen = read_picture(place.folder / pattern.format(stem), "L") > 128
        return np.where(seen, int(stem.split(".")[0]), 0).astype(np.int32)

    return decode


def bird_classes(folder: Path) -> Vocabulary:
    """Read background and the 200 names of CUB-200 from its own list.

    Raises:
        InputError: It is missing, or lists others.
    """
    rows = _rows(folder / "classes.txt")
    if [row[0] for row in rows] != [str(number) for number in range(1, 201)]:
        raise InputError(f"'{folder / 'classes.txt'}' lists {len(rows)} classes; expected 1 to 200, unpack it again")
    return Vocabulary.parse([["background"], *([row[1].partition(".")[2].replace("_", " ")] for row in rows)])


def bird_tests(folder: Path) -> list[str]:
    """Return the test images of CUB-200."""
    train = {number for number, flag in _rows(folder / "train_test_split.txt") if flag == "1"}
    return [path.removesuffix(".jpg") for number, path in _rows(folder / "images.txt") if number not in train]


def _rows(path: Path) -> list[tuple[str, str]]:
    try:
        pairs = [line.split(maxsplit=1) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        return [(first, second.strip()) for first, second in pairs]
    except (OSError, ValueError) as error:
        raise InputError(f"'{path}' cannot be read ({str(error)[:100]}); unpack the archive again") from error


def xrays(folder: Path) -> list[str]:
    """Return the test images of PAXRay."""
    return list(_xray_targets(folder))


def _xray_targets(folder: Path) -> dict[str, str]:
    path = folder / "paxray.json"
    try:
        entries: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["test"]
        return {Path(one["image"]).stem: str(one["target"]) for one in entries}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"'{path}' cannot be read ({str(error)[:100]}); unpack the archive again") from error


def xray_part(number: int) -> Rule:
    """Make the rule of one of PAXRay's 166 masks, which overlap: inside 1, else 0."""

    def rule(place: Place, _pattern: str) -> Decoder:
        targets = _xray_targets(place.folder)

        def decode(stem: str) -> np.ndarray:
            path = place.folder / targets[stem]
            try:
                masks = np.load(path, mmap_mode="r", allow_pickle=False)
                return (np.asarray(masks[number]) > 0).astype(np.int32)
            except (OSError, ValueError, IndexError, EOFError) as error:
                raise InputError(f"label '{path}' cannot be read ({str(error)[:100]}); unpack it again") from error

        return decode

    return rule
