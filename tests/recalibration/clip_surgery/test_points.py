"""Points for promptable segmenters: cells, counts and coordinates."""

from __future__ import annotations

import pytest
import torch

from ovseg.errors import ConfigError
from ovseg.recalibration.clip_surgery.points import prompt_points, stretch


def blob(height: int, width: int, *, top: int, left: int) -> torch.Tensor:
    scores = torch.arange(height * width).view(height, width) * 1e-3
    scores[top : top + 2, left : left + 2] = 5.0 + torch.tensor([[0.0, 0.1], [0.2, 0.3]])
    return scores


def test_points_lie_in_the_centres_of_the_best_and_the_worst_cells():
    points, labels = prompt_points(blob(4, 6, top=1, left=4)[None], (80, 240), down_sample=1)
    assert points.tolist() == [[180, 30], [220, 30], [180, 50], [220, 50], [20, 10], [60, 10], [100, 10], [140, 10]]
    assert labels.tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    assert points.dtype == labels.dtype == torch.int32


def test_a_coarser_grid_keeps_points_apart():
    points, labels = prompt_points(blob(8, 8, top=4, left=2)[None], (64, 64))
    assert points[:1].tolist() == [[24, 40]]
    assert labels.tolist() == [1, 0]


def test_at_most_half_of_the_cells_are_positive():
    scores = torch.ones(1, 4, 4)
    scores[0, 0, 0] = 0
    _, labels = prompt_points(scores, (32, 32), down_sample=1)
    assert labels.tolist() == [1] * 8 + [0] * 8


def test_points_ignore_scale_and_offset_and_stay_inside():
    scores = torch.rand(1, 9, 7)
    for size in ((3, 5), (100, 40)):
        points, _ = prompt_points(scores, size)
        assert torch.equal(points, prompt_points(scores * 40 - 3, size)[0])
        assert (points >= 0).all() and (points < torch.tensor([size[1], size[0]])).all()


def test_texts_combine():
    both = torch.stack([blob(6, 6, top=0, left=0), blob(6, 6, top=3, left=3)])
    points, labels = prompt_points(both, (6, 6), down_sample=1)
    alone = [prompt_points(one[None], (6, 6), down_sample=1) for one in both]
    positive = torch.cat([found[marks == 1] for found, marks in alone])
    assert torch.equal(points[labels == 1], positive)
    mean = stretch(both).mean(0, keepdim=True)
    wanted, marks = prompt_points(mean, (6, 6), down_sample=1)
    assert torch.equal(points[labels == 0], wanted[marks == 0])
    assert set(map(tuple, points[labels == 0].tolist())).isdisjoint(map(tuple, positive.tolist()))


def test_a_constant_map_gives_no_point():
    points, labels = prompt_points(torch.full((1, 4, 4), 0.3), (32, 32))
    assert points.shape == (0, 2) and labels.shape == (0,)


def test_a_grid_smaller_than_the_step():
    points, labels = prompt_points(torch.rand(1, 1, 5), (10, 50), down_sample=2)
    assert points[:, 1].eq(5).all() and labels.tolist() == [1, 0]


def test_stretch_maps_one_by_one():
    maps = torch.rand(2, 3, 4, 5) * 7 - 3
    found = stretch(maps)
    assert torch.equal(found.amin((2, 3)), torch.zeros(2, 3)) and torch.equal(found.amax((2, 3)), torch.ones(2, 3))
    assert not stretch(torch.full((1, 2, 2), 4.0)).any()


@pytest.mark.parametrize(("shape", "step"), [((0, 4, 4), 2), ((4, 4), 2), ((1, 4, 4), 0)])
def test_wrong_maps(shape, step):
    with pytest.raises(ConfigError, match=r"expected \(T, h, w\) and at least 1"):
        prompt_points(torch.rand(shape), (8, 8), down_sample=step)
