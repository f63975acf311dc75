"""A colour for every class, told apart as it is seen: half transparent over a grey photograph, by all eyes.

A vocabulary is coloured as a whole, by nothing but its words: in any order they look the same, in every picture. Up to
24 classes share a palette that was searched for: as seen (`blended`), any two differ by at least what `BOUNDS` says.
Another class takes a free place and moves few of the others: the places of small vocabularies come first in large ones.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ovseg.vocabulary.names import fold

Color = tuple[int, int, int]
PALETTE_SIZE = 256
ALPHA = 0.5
"""How strong the colours of a picture are, unless somebody asks for more or less."""
GREYS = (0, 64, 128, 192, 255)
"""The photographs that colours are judged over, from black to white."""
BOUNDS = ((12, 50), (16, 40), (24, 30))
"""Up to so many classes, so large (OKLab x 1000) is the smallest distance of two, to every eye and over every grey."""
EYES = ("plain", "protan", "deutan", "tritan")

# Full dichromacy in linear RGB: Machado, Oliveira, Fernandes, "A Physiologically-based Model for Simulation of Color
# Vision Deficiency" (2009), table 1, severity 1.0.
_PROTAN = ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998))
_DEUTAN = ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881))
_TRITAN = ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900))
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
# Found by a random search with exchanges for large distances of the first 8, 12, 16 and 24 colours over all GREYS, to
# EYES and to those of Vienot (1999) and Brettel (1997): 66, 60, 47 and 35. No greys: those are "no class".
_FIRST = (
    *((0, 0, 170), (85, 170, 17), (136, 0, 0), (255, 238, 119), (68, 238, 255), (153, 51, 136), (221, 170, 136)),
    *((204, 102, 153), (51, 51, 255), (85, 17, 102), (34, 187, 255), (204, 34, 0), (136, 204, 34), (34, 119, 221)),
    *((170, 238, 187), (85, 119, 85), (119, 34, 170), (17, 153, 255), (255, 119, 187), (204, 221, 0), (153, 85, 170)),
    *((153, 136, 85), (170, 17, 51), (51, 17, 221)),
)
# Vocabularies of at most so many classes share the first so many colours; small ones use the first eight if they can.
_TIERS = (8, 12, 16, 24, 32, 48, 64, 96, 128, 192, PALETTE_SIZE)
# So few classes also differ in hue by so much (OKLab x 1000 without lightness, to the plain eye, over mid-grey): bright
# and dark parts of a photograph make bright and dark colours of one hue alike.
_FEW, _OTHER_HUE = 8, 45
# Places of the palette that people expect, by the last word of a name.
_NATURAL: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("sky",), (10, 17, 4)),
    **dict.fromkeys(("water", "sea", "ocean", "river", "lake", "pool"), (0, 8, 13)),
    **dict.fromkeys(("grass", "lawn", "tree", "plant", "vegetation", "forest", "bush", "leaf"), (1, 12, 15)),
    **dict.fromkeys(("sand", "beach", "sun"), (3, 6)),
    **dict.fromkeys(("wood", "floor", "planks", "earth", "dirt", "ground", "soil"), (6, 21)),
    **dict.fromkeys(("fire", "apple", "tomato", "strawberry", "person", "people"), (11, 2, 22)),
    **dict.fromkeys(("road", "street", "asphalt"), (5, 9, 16)),  # as Cityscapes paints it, and many since
    **dict.fromkeys(("snow", "ice"), (4,)),
}


def seen_colors(rgb: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return what the eyes of `EYES` see of each colour.

    Args:
        rgb: sRGB colours ``(N, 3)``, 0..255.

    Returns:
        OKLab coordinates times 1000, rounded, ``(4, N, 3)``. Whole numbers make everything built on them exact.
    """
    value = np.asarray(rgb, dtype=np.float64) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    eyes = np.stack([linear, *((linear @ np.array(m).T).clip(0, 1) for m in (_PROTAN, _DEUTAN, _TRITAN))])
    lab = np.cbrt(eyes @ np.array(_TO_LMS).T) @ np.array(_TO_LAB).T
    return np.rint(lab * 1000).astype(np.int64)


def blended(rgb: NDArray[np.integer] | Sequence[Color], alpha: float = ALPHA, grey: int = 128) -> NDArray[np.uint8]:
    """Return what becomes of colours ``(N, 3)`` over a grey photograph, as pictures show them; ``(N, 3)``."""
    return np.rint(grey + (np.asarray(rgb, np.float64).reshape(-1, 3) - grey) * alpha).astype(np.uint8)


def distance(seen: NDArray[np.int64], to: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return squared distances ``(N, M)`` of colours ``(E, N, 3)`` and ``(E, M, 3)``, by the eye that sees least."""
    least = np.full((seen.shape[1], to.shape[1]), np.iinfo(np.int64).max)
    for one, other in zip(seen, to, strict=True):  # one by one, for all at once do not fit into a cache
        np.minimum(least, ((one[:, None] - other[None]) ** 2).sum(-1), out=least)
    return least


def smallest_distances(colors: Sequence[Color]) -> dict[str, float]:
    """Return how far apart the two most alike colours are as seen, to each of `EYES` and over the worst of `GREYS`.

    Args:
        colors: sRGB, 0..255; at least two.

    Returns:
        OKLab distance x 1000 by the name of the eye.
    """
    seen = _seen(np.array(colors)).reshape(len(GREYS), len(EYES), len(colors), 3)
    pairs = np.triu_indices(len(colors), 1)
    return {name: float(distance(seen[:, eye], seen[:, eye])[pairs].min() ** 0.5) for eye, name in enumerate(EYES)}


def bound_for(count: int) -> int:
    """Return the distance that any two of so many classes keep (`BOUNDS`); 0 for more than it speaks of."""
    return next((bound for most, bound in BOUNDS if count <= most), 0)


def spread_colors(names: Sequence[str], given: Mapping[int, Color] | None = None) -> list[Color]:
    """Return the colours of classes that are shown together.

    They are served in an order that their letters decide, those with a natural colour first. Each takes the first free
    place of the palette, from a place that its letters decide; beyond 256 classes places are used again.

    Args:
        names: Of the classes.
        given: Colours that stay as they are, by position; the other classes keep away from them, by `BOUNDS` where the
            palette has such colours left, else as far as it goes.
    """
    return list(_spread(tuple(fold(name) for name in names), tuple(sorted((given or {}).items()))))


@functools.lru_cache(maxsize=64)
def _spread(names: tuple[str, ...], given: tuple[tuple[int, Color], ...]) -> tuple[Color, ...]:
    chosen = dict(given)
    size = next((tier for tier in _TIERS[1:] if len(names) <= tier and not given), PALETTE_SIZE)
    colors, table = palette(size)
    need = np.array([max(1, bound_for(len(names))), _OTHER_HUE if len(names) <= _FEW else 0]) ** 2
    start = np.full((2, size), np.iinfo(np.int64).max)
    if given:
        start = _apart(colors, np.array([*chosen.values()])).min(2)
    keys = {i: _key(name) for i, name in enumerate(names) if i not in chosen}
    for number, i in enumerate(sorted(keys, key=lambda i: (not _natural(names[i]), keys[i]))):
        if number % size == 0:  # at the start, and whenever all places are taken
            nearest = start
        place = _place(names[i], keys[i], nearest, need)
        nearest = np.minimum(nearest, table[:, place])
        red, green, blue = colors[place].tolist()
        chosen[i] = red, green, blue
    return tuple(chosen[i] for i in range(len(names)))


def _place(name: str, key: int, nearest: NDArray[np.int64], need: NDArray[np.int64]) -> int:
    """Choose a place for a class: a natural one, else the first free one from its own on, else the loneliest.

    Args:
        name: Of the class, folded.
        key: What its letters decide.
        nearest: (2, N), how far each place is from the colours that are taken, as `_apart` counts.
        need: (2,), from when on a place is free.
    """
    low, width = _tiers(nearest.shape[1])
    turns = low + (key + np.arange(len(low)) - low) % width
    places = np.concatenate([np.array([p for p in _natural(name) if p < len(low)], np.int64), turns])
    seen, hue = nearest[:, places] >= need[:, None]
    if (seen & hue).any():
        return int(places[(seen & hue).argmax()])
    return int(places[np.where(seen, nearest[1, places], -1).argmax() if seen.any() else nearest[0, places].argmax()])


@functools.cache
def _tiers(size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return where the tier of each place begins and how many places it has, ``(size,)`` each."""
    edges = [0, *(tier for tier in _TIERS if tier <= size)]
    widths = np.diff(edges)
    return np.repeat(edges[:-1], widths), np.repeat(widths, widths)


def _natural(name: str) -> tuple[int, ...]:
    return _NATURAL.get(re.split(r"[\W_]+", name)[-1], ())


def _key(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big")


def _seen(rgb: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return what all eyes see of colours ``(N, 3)`` over all greys, ``(len(GREYS) * 4, N, 3)``."""
    return np.concatenate([seen_colors(blended(rgb, ALPHA, grey)) for grey in GREYS])


def _apart(colors: NDArray[np.integer], others: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return squared distances ``(2, N, M)``: as seen by the worst eye over the worst grey, and of the hues alone."""
    hues = (seen_colors(blended(one))[:1, :, 1:] for one in (colors, others))
    return np.stack([distance(_seen(colors), _seen(others)), distance(*hues)])


@functools.cache
def palette(size: int = PALETTE_SIZE) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the first colours of the palette: those that were searched for, then always the one farthest from all.

    Args:
        size: How many, up to 256.

    Returns:
        Colours ``(size, 3)``, and how far the colours of each pair are apart, ``(2, size, size)``: squared distances as
        seen, by the eye and over the grey where they are smallest, and of the hues alone.
    """
    if size < PALETTE_SIZE and size > len(_FIRST):
        colors, table = palette()
        return colors[:size], table[:, :size, :size]
    colors = np.array(_FIRST[:size], dtype=np.uint8)
    if size > len(_FIRST):
        colors = np.concatenate([colors, _further(colors, size - len(colors))])
    return colors, _apart(colors, colors)


def _further(colors: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """Return so many more colours, each the one farthest from all before it; ``(count, 3)``."""
    levels = np.linspace(0, 255, 14).round().astype(np.int64)
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 3)
    plain = seen_colors(grid)[0]
    # Readable on white and on black, and no greys: those belong to "no class".
    usable = (plain[:, 0] > 330) & (plain[:, 0] < 930) & (np.hypot(plain[:, 1], plain[:, 2]) > 45)
    grid = grid[usable]
    seen = _seen(grid)
    nearest = distance(seen, _seen(colors)).min(1)
    chosen: list[int] = []
    while len(chosen) < count:
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, distance(seen, seen[:, chosen[-1:]])[:, 0])
    return grid[chosen].astype(np.uint8)
