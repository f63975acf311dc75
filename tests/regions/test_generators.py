from __future__ import annotations

import numpy as np
import pytest
import torch

from ovseg.errors import ConfigError, UnknownNameError, WeightsError
from ovseg.regions import REGION_REGISTRY, REGIONS
from ovseg.regions.generators import to_pixels
from ovseg.regions.mean_shift import absorb, connected
from ovseg.regions.sam import flatten_masks
from ovseg.system.registry import build


def flag(height=60, width=90):
    """Three upright stripes of one colour each, and a small spot."""
    image = torch.zeros(3, height, width)
    for stripe, colour in enumerate(([200, 30, 30], [240, 240, 240], [30, 60, 200])):
        image[:, :, stripe * width // 3 : (stripe + 1) * width // 3] = torch.tensor(colour)[:, None, None].float()
    image[:, 10:12, 10:12] = 255
    return image


def test_mean_shift_finds_areas_of_one_colour():
    ids = build(REGIONS, "MeanShift")(flag())
    assert ids.shape == (60, 90) and ids.dtype == torch.int64
    assert ids.unique().tolist() == [0, 1, 2]  # the spot is too small to be a region
    assert [len(ids[:, columns].unique()) for columns in (slice(0, 29), slice(31, 59), slice(61, 90))] == [1, 1, 1]


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (8, 8), (33, 70)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32])
def test_mean_shift_on_noise_of_any_size(size, dtype):
    image = torch.randint(0, 256, (3, *size), generator=torch.Generator().manual_seed(0)).to(dtype)
    ids = build(REGIONS, "meanshift")(image)
    assert ids.shape == size and ids.min() == 0
    assert ids.unique().numel() == ids.max() + 1
    assert torch.equal(ids, build(REGIONS, "meanshift")(image))


def test_small_regions_are_gone():
    image = torch.randint(0, 256, (3, 64, 64), generator=torch.Generator().manual_seed(0))
    assert build(REGIONS, "meanshift", {"smallest": 0.02})(image).unique(return_counts=True)[1].min() >= 0.02 * 64 * 64


def test_connected_takes_ways_around_corners_but_none_across():
    colours = np.zeros((3, 4, 3), np.uint8)
    colours[:, 2] = 200  # a wall with a gap in it
    colours[2, 2] = 0
    ids = connected(colours, 5)
    assert ids[0, 0] == ids[0, 3] == ids[2, 2]
    assert ids[0, 2] == ids[1, 2] != ids[0, 0]
    diagonal = np.zeros((2, 2, 3), np.uint8)
    diagonal[0, 0] = diagonal[1, 1] = 200
    assert len(np.unique(connected(diagonal, 5))) == 4


def test_a_small_region_joins_the_neighbour_of_the_nearest_colour():
    ids = np.array([[0, 0, 1, 2, 2]] * 4)
    colours = np.array([0, 90, 100])[ids][..., None].repeat(3, 2).astype(np.uint8)
    assert absorb(ids, colours, 5).tolist() == [[0, 0, 1, 1, 1]] * 4
    assert absorb(np.arange(6).reshape(2, 3), colours[:2, :3], 100).max() == 0  # everything is small


def test_smallest_masks_are_on_top():
    large, small, other = (np.zeros((4, 6), bool) for _ in range(3))
    large[:, :4], small[1, 1], other[3, 3:5] = True, True, True
    found = flatten_masks([large, small, other], torch.zeros(3, 4, 6))
    wanted = torch.full((4, 6), -1)
    wanted[:, :4], wanted[1, 1] = 2, 0
    wanted[3, 3:5] = 1
    assert torch.equal(found, wanted)
    assert (flatten_masks([], torch.zeros(3, 4, 6)) == -1).all()


def test_pixels_are_rounded_and_clipped():
    image = torch.tensor([-3.0, 1.6, 300.0]).view(3, 1, 1)
    assert to_pixels(image).tolist() == [[[0, 2, 255]]]


def test_generators_cite_their_source():
    assert all("github.com/" in generator.__doc__ for _, generator in REGION_REGISTRY)


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("menshift", {}, UnknownNameError, "did you mean MeanShift"),
        ("MeanShift", {"color": 3.0}, ConfigError, "unknown option 'color' of MeanShift; did you mean colour"),
        ("MeanShift", {"contrast": 0}, ConfigError, "contrast of MeanShift is 0; expected more than 0"),
        ("SAM", {}, ConfigError, "missing a required.* 'checkpoint'"),
        ("SAM", {"checkpoint": "nowhere.pth"}, WeightsError, "nowhere.pth does not exist"),
        ("SAM", {"checkpoint": "nowhere.pth", "points_per_side": 0}, ConfigError, "points_per_side is 0"),
    ],
)
def test_mistakes(name, options, error, message):
    with pytest.raises(error, match=message) as caught:
        build(REGIONS, name, options)
    assert "\n" not in str(caught.value)
