"""Corruptions: any size, the same for an image wherever and whenever it is seen, and worse with each severity."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import data

from ovseg.errors import InputError, UnknownNameError
from ovseg.evaluation.robustness import CORRUPTIONS, Corruption
from ovseg.vocabulary import Vocabulary

WORDS = Vocabulary.parse(["cat", "sky"])
PHOTO = np.ascontiguousarray(data.astronaut()[::3, ::4])  # (171, 128, 3)


def corrupt(name: str, severity: int, pixels: np.ndarray = PHOTO, image_id: str = "a.jpg", seed: int = 0) -> np.ndarray:
    return Corruption(name, severity, seed).image(pixels, image_id, WORDS, [0])


def difference(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.abs(first.astype(float) - second).mean())


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_more_severe_is_further_from_the_photo_and_never_gone(name: str) -> None:
    before = PHOTO.copy()
    far = [difference(corrupt(name, severity), PHOTO) for severity in (1, 3, 5)]
    assert 1 < far[0] < far[2] < 110 and far[1] < 1.2 * far[2]
    assert np.array_equal(PHOTO, before)


@pytest.mark.parametrize("name", CORRUPTIONS)
@settings(max_examples=6, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 5), st.integers(0, 255))
def test_any_size_and_any_brightness(name: str, height: int, width: int, severity: int, value: int) -> None:
    found = corrupt(name, severity, np.full((height, width, 3), value, np.uint8))
    assert found.shape == (height, width, 3) and found.dtype == np.uint8


@pytest.mark.parametrize("name", ["gaussian_noise", "glass_blur", "snow", "frost", "fog", "elastic_transform"])
def test_what_is_drawn_depends_on_image_and_seed_alone(name: str) -> None:
    first = corrupt(name, 3)
    corrupt(name, 3, image_id="b.jpg")  # earlier draws do not matter
    again = pickle.loads(pickle.dumps(Corruption(name, 3))).image(PHOTO, "a.jpg", WORDS, [])
    assert np.array_equal(first, again)
    assert not np.array_equal(first, corrupt(name, 3, image_id="b.jpg"))
    assert not np.array_equal(first, corrupt(name, 3, seed=1))


@pytest.mark.parametrize("name", ["defocus_blur", "motion_blur", "zoom_blur"])
def test_lengths_grow_with_the_image(name: str) -> None:
    small = corrupt(name, 3)
    large = corrupt(name, 3, PHOTO.repeat(4, 0).repeat(4, 1))
    assert difference(large[2::4, 2::4], small) < 6 < difference(small, PHOTO)


def test_blocks_of_pixels_grow_with_the_image() -> None:
    photo = data.astronaut()[::2, ::2]
    for pixels, side in ((photo, 256), (photo.repeat(2, 0).repeat(2, 1), 512)):
        found = corrupt("pixelate", 5, pixels)
        assert 1 + int((found[:, 1:] != found[:, :-1]).any((0, 2)).sum()) == round(0.25 * 224) and len(found) == side


def test_statistics_of_noise_are_those_of_the_paper() -> None:
    grey = np.full((300, 300, 3), 128, np.uint8)
    assert corrupt("gaussian_noise", 1, grey).std() == pytest.approx(0.08 * 255, rel=0.03)
    assert corrupt("shot_noise", 2, grey).std() == pytest.approx(255 * np.sqrt(128 / 255 / 25), rel=0.03)
    impulses = corrupt("impulse_noise", 5, grey)
    assert (impulses == 0).mean() == pytest.approx(0.135, rel=0.05) == (impulses == 255).mean()


def test_blurs_keep_the_mean_and_contrast_keeps_the_middle() -> None:
    for name in ("defocus_blur", "motion_blur", "glass_blur", "contrast"):
        assert corrupt(name, 4).mean() == pytest.approx(PHOTO.mean(), rel=0.04)
    assert corrupt("contrast", 5).std((0, 1)) == pytest.approx(0.05 * PHOTO.std((0, 1)), rel=0.1)


def test_mistakes() -> None:
    with pytest.raises(UnknownNameError, match="did you mean fog"):
        Corruption("fogg", 1)
    with pytest.raises(InputError, match="severity 6; expected 1 to 5"):
        Corruption("fog", 6)
