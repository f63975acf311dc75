"""Tests of the cells that CLIPSelf learns from."""

import numpy as np
import torch

from ovseg.data.grid_crops import GridCrops, grid_boxes, grid_choices

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def test_grids_are_no_longer_than_twice_their_width():
    found = grid_choices()
    assert len(found) == 24
    assert all(max(pair) <= 6 and max(pair) <= 2 * min(pair) for pair in found)


def test_cells_cover_the_image_row_by_row():
    boxes = grid_boxes((40, 60), (2, 3))
    assert boxes[:2].round(4).tolist() == [[0, 0, 20, 20], [20, 0, 40, 20]]
    assert boxes[-1].round(4).tolist() == [40, 20, 60, 40]


def test_boxes_lie_in_the_padded_square_and_crops_in_the_middle_of_theirs():
    image = np.full((20, 40, 3), 255, np.uint8)
    found = GridCrops(side=80, crop=16, **PLAIN).cut(image, (1, 1), np.array([0]))
    assert found["boxes"].tolist() == [[0.0, 0.0, 1.0, 0.5]]
    assert found["square"][:, :40].min() == 1 and found["square"][:, 40:].max() == 0
    assert found["crops"][0, :, 4:12].min() == 1
    assert found["crops"][0, :, :4].max() == 0 and found["crops"][0, :, 12:].max() == 0


def test_an_enlarged_cell_is_cut_at_the_border():
    image = np.zeros((30, 30, 3), np.uint8)
    image[:15, :15] = 255
    plain, large = (GridCrops(30, 30, scale=s, **PLAIN).cut(image, (2, 2), np.array([0])) for s in (1.0, 2.0))
    assert torch.equal(plain["boxes"], large["boxes"])
    assert plain["crops"].mean() == 1 > large["crops"].mean()


def test_all_chance_comes_from_what_is_given():
    sample = {"image": torch.randint(0, 255, (3, 24, 32), dtype=torch.uint8)}
    view = GridCrops(side=32, crop=16, most=4, **PLAIN)
    one, same = (view(sample, np.random.default_rng(3)) for _ in range(2))
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert len(one["boxes"]) == len(one["crops"]) <= 4
