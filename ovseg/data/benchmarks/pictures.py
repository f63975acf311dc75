"""Labels that are pictures for people: colours, and grey masks of one class."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from ovseg.data.benchmarks.base import Decoder, Place, Rule
from ovseg.errors import InputError

Colour = tuple[int, int, int]


def read_picture(path: Path, mode: str) -> np.ndarray:
    """Read a label picture as ``RGB`` (H, W, 3) or as ``L`` (H, W), uint8.

    Raises:
        InputError: It is missing or broken.
    """
    try:
        return np.asarray(Image.open(path).convert(mode))
    except FileNotFoundError as error:
        raise InputError(f"label '{path}' is missing; unpack its archive again") from error
    except Exception as error:  # decoders raise nearly anything
        raise InputError(f"label '{path}' cannot be read ({str(error)[:100]}); unpack its archive again") from error


def by_colour(classes: Mapping[Colour, int], rounded: bool = False) -> Rule:
    """Make the rule of labels whose colours are classes (-1 void).

    Args:
        classes: Class of each colour.
        rounded: Whether each channel is black or full after rounding, for labels that were blurred by resizing.
    """
    return partial(_colour_decoder, classes, rounded)


def _colour_decoder(classes: Mapping[Colour, int], rounded: bool, place: Place, pattern: str) -> Decoder:
    known = {red << 16 | green << 8 | blue: class_id for (red, green, blue), class_id in classes.items()}

    def decode(stem: str) -> np.ndarray:
        path = place.folder / pattern.format(stem)
        rgb = read_picture(path, "RGB").astype(np.int32)
        if rounded:
            rgb = np.where(rgb > 128, 255, 0)
        codes, inverse = np.unique(rgb @ np.array([1 << 16, 1 << 8, 1]), return_inverse=True)
        unknown = [int(code) for code in codes if int(code) not in known]
        if unknown:
            colour = (unknown[0] >> 16, unknown[0] >> 8 & 255, unknown[0] & 255)
            raise InputError(
                f"label '{path}' shows the colour {colour}; expected one of the {len(known)} of "
                f"{place.benchmark.name}; is it of this set?"
            )
        ids: np.ndarray = np.array([known[int(code)] for code in codes], np.int32)[inverse.reshape(rgb.shape[:2])]
        return ids

    return decode


def bright(limit: int) -> Rule:
    """Make the rule of grey masks of two classes: 1 above a brightness, else 0."""
    return partial(_bright_decoder, limit)


def _bright_decoder(limit: int, place: Place, pattern: str) -> Decoder:
    return lambda stem: (read_picture(place.folder / pattern.format(stem), "L") > limit).astype(np.int32)
