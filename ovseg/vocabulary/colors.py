"""A colour for every class name: the same on every machine, apart from its neighbours, safe for colour-blind readers.

A name's hash picks its place in a fixed palette, so a class keeps its colour from photo to photo and list to list.
Only where two classes of ONE vocabulary would look alike does the later one (in alphabetical order, so that the
user's order plays no part) move on to the next free colour.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ovseg.vocabulary.names import fold

Color = tuple[int, int, int]
PALETTE_SIZE = 256
# OKLab distance (x 1000) below which two colours count as alike, measured for the eye that separates them worst.
ALIKE = 50
# Full dichromacy in linear RGB: Machado, Oliveira, Fernandes, "A Physiologically-based Model for Simulation of Color
# Vision Deficiency" (2009), severity 1.0. Red-green blindness is what nearly all colour-blind readers have.
_PROTAN = ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998))
_DEUTAN = ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881))
# Linear RGB to OKLab: Ottosson, "A perceptual color space for image processing" (2020).
_TO_LMS = (
    (0.4122214708, 0.5363325363, 0.0514459929),
    (0.2119034982, 0.6806995451, 0.1073969566),
    (0.0883024619, 0.2817188376, 0.6299787005),
)
_TO_LAB = (
    (0.2104542553, 0.7936177850, -0.0040720468),
    (1.9779984951, -2.4285922050, 0.4505937099),
    (0.0259040371, 0.7827717662, -0.8086757660),
)


def seen_colors(rgb: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return what three eyes (full vision, protan, deutan) see of each colour.

    Args:
        rgb: sRGB colours ``(N, 3)``, 0..255.

    Returns:
        OKLab coordinates times 1000, rounded, ``(3, N, 3)``. Whole numbers make everything built on them exact.
    """
    value = np.asarray(rgb, dtype=np.float64) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    eyes = np.stack([linear, *((linear @ np.array(m).T).clip(0, 1) for m in (_PROTAN, _DEUTAN))])
    lab = np.cbrt(eyes @ np.array(_TO_LMS).T) @ np.array(_TO_LAB).T
    return np.rint(lab * 1000).astype(np.int64)


def distance(seen: NDArray[np.int64], to: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return squared distances ``(N, M)`` of colours ``(3, N, 3)`` and ``(3, M, 3)``, by the eye that sees least."""
    per_eye = ((seen[:, :, None] - to[:, None]) ** 2).sum(-1)
    return np.asarray(per_eye.min(0))


@functools.cache
def palette() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Build the palette: each next colour is the one farthest from all before it (farthest-point sampling).

    Returns:
        Colours ``(256, 3)`` and the squared distance of each pair ``(256, 256)``.
    """
    levels = np.linspace(0, 255, 14).round().astype(np.int64)
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 3)
    seen = seen_colors(grid)
    # Readable on white and on black, and no greys: those belong to "no class".
    chroma = np.hypot(seen[0, :, 1], seen[0, :, 2])
    usable = (seen[0, :, 0] > 330) & (seen[0, :, 0] < 930) & (chroma > 45)
    grid, seen = grid[usable], seen[:, usable]
    start = int(((grid - np.array([230, 60, 60])) ** 2).sum(1).argmin())
    chosen, nearest = [start], distance(seen, seen[:, [start]])[:, 0]
    while len(chosen) < PALETTE_SIZE:
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, distance(seen, seen[:, chosen[-1:]])[:, 0])
    picked = seen[:, chosen]
    return grid[chosen].astype(np.uint8), distance(picked, picked)


def _slot(name: str) -> int:
    """Return the palette index that the hash of a name picks."""
    return int.from_bytes(hashlib.sha256(fold(name).encode()).digest()[:8], "big") % PALETTE_SIZE


def _as_color(slot: int) -> Color:
    red, green, blue = (int(v) for v in palette()[0][slot])
    return red, green, blue


def color_of(name: str) -> Color:
    """Return the colour (sRGB, 0..255) of a name alone, a pure function of its letters (case ignored)."""
    return _as_color(_slot(name))


def spread_colors(names: Sequence[str]) -> list[Color]:
    """Return the colours of classes that are shown together.

    A class whose own colour looks like no other class's own colour keeps it. The others are served in alphabetical
    order: each takes the first colour, from its own place in the palette onwards, that looks like none given so far;
    when no such colour is left (beyond some 40 classes), the one farthest from all given; with more classes than
    the palette has colours, its own one again.
    """
    table = palette()[1]
    slots = [_slot(name) for name in names]
    counts = np.bincount(slots, minlength=PALETTE_SIZE)
    crowd = (table < ALIKE**2) @ counts  # how many classes own a colour like this one, itself included
    kept = [slot for slot in slots if crowd[slot] == 1]
    nearest = table[kept].min(0) if kept else np.full(PALETTE_SIZE, np.iinfo(np.int64).max)
    crowded = [i for i, slot in enumerate(slots) if crowd[slot] > 1]
    for i in sorted(crowded, key=lambda i: fold(names[i])):
        probe = (slots[i] + np.arange(PALETTE_SIZE)) % PALETTE_SIZE
        free = np.flatnonzero(nearest[probe] >= ALIKE**2)
        slot = int(probe[free[0] if len(free) else nearest[probe].argmax()])
        slots[i] = slot
        nearest = np.minimum(nearest, table[slot])
    return [_as_color(slot) for slot in slots]
