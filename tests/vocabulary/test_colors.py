from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ovseg.vocabulary import ClassEntry, Vocabulary
from ovseg.vocabulary.colors import ALIKE, PALETTE_SIZE, color_of, distance, palette, seen_colors, spread_colors

WORDS = st.lists(st.text("abcdefgh", min_size=1, max_size=4), min_size=1, max_size=30, unique=True)


def closest(colors: list[tuple[int, int, int]]) -> float:
    seen = seen_colors(np.array(colors))
    apart = distance(seen, seen).astype(float)
    np.fill_diagonal(apart, np.inf)
    return float(apart.min() ** 0.5)


def test_colors_do_not_change_between_versions() -> None:
    # Whoever changes these changes the colours of every figure that users made before.
    assert [color_of(name) for name in ("cat", "sky", "Cat")] == [(235, 59, 20), (78, 39, 196), (235, 59, 20)]


def test_palette_is_distinct_and_readable() -> None:
    colors, table = palette()
    assert len({tuple(c) for c in colors}) == PALETTE_SIZE == len(table)
    lightness, a, b = seen_colors(colors)[0].T
    assert lightness.min() > 300 and lightness.max() < 950  # on white and on black
    assert np.hypot(a, b).min() > 40  # no greys


def test_oklab_of_known_colors() -> None:
    # Red of sRGB in OKLab, from the article: L 0.628, a 0.225, b 0.126; greys look grey to all eyes.
    red, grey = seen_colors(np.array([[255, 0, 0], [128, 128, 128]]))[:, 0], seen_colors(np.array([[128, 128, 128]]))
    assert red[0].tolist() == [628, 225, 126]
    assert abs(grey[:, 0, 1:]).max() <= 1
    # Red and a dark green of equal brightness differ for full vision and much less for a red-green blind eye.
    pair = seen_colors(np.array([[170, 60, 60], [100, 110, 50]]))
    full, protan, deutan = np.linalg.norm(pair[:, 0] - pair[:, 1], axis=-1)
    assert min(protan, deutan) < full / 2


@given(WORDS)
@settings(max_examples=50)
def test_no_two_look_alike_and_others_keep_theirs(names: list[str]) -> None:
    colors = spread_colors(names)
    own = [color_of(name) for name in names]
    assert len(names) == 1 or closest(colors) >= ALIKE
    seen = seen_colors(np.array(own))
    alike = (distance(seen, seen) < ALIKE**2).sum(1)
    assert all(got == mine for got, mine, crowd in zip(colors, own, alike, strict=True) if crowd == 1)


@given(WORDS, st.randoms())
@settings(max_examples=25)
def test_position_plays_no_part(names: list[str], random: object) -> None:
    shuffled = list(names)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert dict(zip(names, spread_colors(names), strict=True)) == dict(
        zip(shuffled, spread_colors(shuffled), strict=True)
    )


def test_many_classes() -> None:
    assert closest(spread_colors([f"class {i}" for i in range(20)])) >= ALIKE
    assert len(set(spread_colors([f"class {i}" for i in range(PALETTE_SIZE)]))) == PALETTE_SIZE
    assert len(set(spread_colors([f"class {i}" for i in range(10_000)]))) == PALETTE_SIZE


def test_vocabulary_uses_them_and_keeps_given_ones() -> None:
    names = [f"class {i}" for i in range(20)]
    vocabulary = Vocabulary.parse(names)
    assert [entry.color for entry in vocabulary] == spread_colors(names)
    assert Vocabulary(vocabulary.classes) == vocabulary
    assert [e.color for e in Vocabulary(vocabulary.classes)] == spread_colors(names)
    given_by_hand = Vocabulary((ClassEntry(("cat",), color=(1, 2, 3)), ClassEntry(("sky",))))
    assert [entry.color for entry in given_by_hand] == [(1, 2, 3), color_of("sky")]
