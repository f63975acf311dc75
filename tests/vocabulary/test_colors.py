"""Colours as they are seen: far enough apart for every eye over every grey, decided by nothing but the words."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovseg.vocabulary import ClassEntry, Vocabulary
from ovseg.vocabulary.colors import (
    BOUNDS,
    EYES,
    PALETTE_SIZE,
    blended,
    bound_for,
    palette,
    seen_colors,
    smallest_distances,
    spread_colors,
)

WORDS = st.lists(st.text("abcdefgh", min_size=1, max_size=4), min_size=2, max_size=24, unique=True)


def test_colors_do_not_change_between_versions() -> None:
    # Whoever changes these changes the colours of every figure that users made before.
    assert spread_colors(["cat", "sky"]) == spread_colors(["Cat", "SKY"]) == [(153, 51, 136), (34, 187, 255)]


def test_oklab_of_known_colors() -> None:
    # Red of sRGB in OKLab, from the article: L 0.628, a 0.225, b 0.126; greys look grey to all eyes.
    red, grey = seen_colors(np.array([[255, 0, 0], [128, 128, 128]]))[:, 0], seen_colors(np.array([[128, 128, 128]]))
    assert red[0].tolist() == [628, 225, 126]
    assert len(red) == len(EYES) == 4 and abs(grey[:, 0, 1:]).max() <= 1
    # Red and a dark green of equal brightness differ for full vision and much less for a red-green blind eye; blue and
    # green do for the eye without blue cones.
    apart = [
        np.linalg.norm(pair[:, 0] - pair[:, 1], axis=-1)
        for pair in (
            seen_colors(np.array([[170, 60, 60], [100, 110, 50]])),
            seen_colors(np.array([[0, 120, 190], [0, 130, 120]])),
        )
    ]
    assert min(apart[0][1:3]) < apart[0][0] / 2 and apart[1][3] < apart[1][0] / 2


def test_blending_is_that_of_the_pictures() -> None:
    assert blended([(255, 0, 100)]).tolist() == [[192, 64, 114]]
    assert blended([(255, 0, 100)], 1).tolist() == [[255, 0, 100]] and blended([(9, 9, 9)], 0, 70).tolist() == [
        [70] * 3
    ]


@pytest.mark.parametrize(("count", "bound"), [(2, 50), (12, 50), (13, 40), (16, 40), (17, 30), (24, 30), (25, 0)])
def test_bounds(count: int, bound: int) -> None:
    assert bound_for(count) == bound and bound in (0, *(bound for _, bound in BOUNDS))
    for trial in range(20):
        assert min(smallest_distances(spread_colors([f"{trial} {i}" for i in range(count)])).values()) >= bound


@given(WORDS)
@settings(max_examples=50)
def test_no_two_look_alike(names: list[str]) -> None:
    assert min(smallest_distances(spread_colors(names)).values()) >= bound_for(len(names))


@given(WORDS, st.randoms())
@settings(max_examples=25)
def test_position_plays_no_part(names: list[str], random: object) -> None:
    shuffled = list(names)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert dict(zip(names, spread_colors(names), strict=True)) == dict(
        zip(shuffled, spread_colors(shuffled), strict=True)
    )


def test_a_list_that_grows_keeps_most_of_its_colors() -> None:
    moved = []
    for count in (4, 11, 15, 23, 60):
        for trial in range(20):
            names = [f"{trial} {i}" for i in range(count + 1)]
            pairs = zip(spread_colors(names), spread_colors(names[:-1]), strict=False)
            moved.append(sum(now != before for now, before in pairs) / count)
    assert np.mean(moved) < 0.3


def test_natural_colors_by_the_last_word() -> None:
    names = ["blue sky", "car", "wet_grass", "Sea", "sea turtle", "sand"]
    colors = dict(zip(names, spread_colors(names), strict=True))
    assert colors["blue sky"] == (34, 187, 255) and colors["wet_grass"] == (85, 170, 17)
    assert colors["Sea"] == (0, 0, 170) and colors["sand"] == (255, 238, 119)
    crowd = ["sea", "lake", "river", "ocean", "pool", "water"]  # of one natural colour, but not alike
    assert min(smallest_distances(spread_colors(crowd)).values()) >= 50


@given(WORDS.map(lambda words: words[:7]))
@settings(max_examples=30)
def test_few_classes_differ_in_hue(names: list[str]) -> None:
    hues = seen_colors(blended(spread_colors(names)))[0, :, 1:]
    apart = np.linalg.norm(hues[:, None] - hues[None], axis=-1)[np.triu_indices(len(names), 1)]
    assert apart.min() >= 45


def test_palette_is_distinct_and_has_no_greys() -> None:
    colors, table = palette()
    assert len({tuple(c) for c in colors}) == PALETTE_SIZE == table.shape[1]
    assert (palette(40)[0] == colors[:40]).all() and (palette(40)[1] == table[:, :40, :40]).all()
    seen = seen_colors(blended(colors))[0]
    assert np.hypot(seen[:, 1], seen[:, 2]).min() > 20  # half transparent they still have a hue


def test_many_classes() -> None:
    assert len(set(spread_colors([f"class {i}" for i in range(PALETTE_SIZE)]))) == PALETTE_SIZE
    start = time.perf_counter()
    many = spread_colors([f"class {i}" for i in range(10_000)])
    assert time.perf_counter() - start < 3 and len(set(many)) == PALETTE_SIZE
    counts = np.unique(np.array(many), axis=0, return_counts=True)[1]
    assert counts.max() - counts.min() <= 1  # places are used again evenly


def test_vocabulary_uses_them_and_keeps_given_ones() -> None:
    names = [f"class {i}" for i in range(20)]
    vocabulary = Vocabulary.parse(names)
    assert [entry.color for entry in vocabulary] == spread_colors(names)
    assert [e.color for e in Vocabulary(vocabulary.classes)] == spread_colors(names)
    longer = Vocabulary((*vocabulary.classes[:9], ClassEntry(("new",))))
    assert [e.color for e in longer][:9] == spread_colors(names)[:9]
    near_blue = (34, 186, 254)
    by_hand = Vocabulary((ClassEntry(("cat",), color=near_blue), *(ClassEntry((n,)) for n in ("sky", "sea", "car"))))
    assert by_hand[0].color == near_blue != by_hand[1].color
    assert min(smallest_distances([entry.color for entry in by_hand]).values()) >= 50
