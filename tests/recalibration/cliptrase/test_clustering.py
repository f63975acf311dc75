"""Clusters of rows against a point-by-point DBSCAN, and smooth maps against a pixel-by-pixel median."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from ovseg.recalibration.cliptrase.clustering import cluster_means, dbscan, smooth, soft_regions


def textbook_dbscan(rows: torch.Tensor, eps: float, min_samples: int) -> list[int]:
    points = rows.double()
    near = [
        [j for j in range(len(points)) if i == j or float((points[i] - points[j]).norm()) <= eps]
        for i in range(len(points))
    ]
    labels, cluster = [-1] * len(points), 0
    for start in range(len(points)):
        if labels[start] >= 0 or len(near[start]) < min_samples:
            continue
        waiting = [start]
        while waiting:
            point = waiting.pop()
            if labels[point] < 0:
                labels[point] = cluster
                if len(near[point]) >= min_samples:
                    waiting += near[point]
        cluster += 1
    return labels


@settings(deadline=None, max_examples=80)
@given(
    st.integers(1, 40),
    st.integers(1, 4),
    st.sampled_from([0.0, 0.05, 0.13, 0.31, 0.77, 2.0]),
    st.integers(1, 6),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_dbscan_is_that_of_the_textbook(count, dimensions, eps, min_samples, repeated, seed):
    rows = torch.rand(count, dimensions, generator=torch.Generator().manual_seed(seed))
    rows = rows[: count // 2 + 1].repeat(2, 1)[:count] if repeated and eps else rows
    assert dbscan(rows, eps, min_samples).tolist() == textbook_dbscan(rows, eps, min_samples)


def test_a_border_point_goes_to_the_first_cluster_and_distance_eps_is_near():
    line = torch.tensor([5.0, 4.5, 4.75, 3.5, 2.5, 2.25, 2.0, 9.0])[:, None]
    assert dbscan(line, 1.0, 4).tolist() == [0, 0, 0, 0, 1, 1, 1, -1]
    assert dbscan(line.flip(0), 1.0, 4).tolist() == [-1, 0, 0, 0, 0, 1, 1, 1]
    assert dbscan(line[:0], 1.0, 4).tolist() == []


def test_dbscan_sees_small_distances_between_long_rows():
    rows = 100 + torch.tensor([0.0, 1e-4, 2e-4, 1e-2])[:, None] * torch.ones(1, 16, dtype=torch.float64)
    assert dbscan(rows, 5e-4, 2).tolist() == [0, 0, 0, -1]


def test_cluster_means_leave_noise_out():
    affinity = torch.arange(16.0).view(4, 4)
    found = cluster_means(affinity, torch.tensor([1, -1, 0, 1]))
    assert torch.equal(found, torch.stack([affinity[2], (affinity[0] + affinity[3]) / 2]))
    assert cluster_means(affinity, torch.full((4,), -1)).shape == (0, 4)


@pytest.mark.parametrize("shape", [(2, 5, 3), (1, 1, 1), (3, 1, 4)])
@pytest.mark.parametrize("factor", [1, 2, 4])
def test_smooth_is_the_median_with_a_mirrored_edge(shape, factor):
    maps = torch.randn(shape)
    large = F.interpolate(maps[None], scale_factor=factor, mode="bilinear", align_corners=False)[0]
    reach = factor - 1
    mirrored = torch.cat([large.flip(1), large, large.flip(1)], dim=1)
    mirrored = torch.cat([mirrored.flip(2), mirrored, mirrored.flip(2)], dim=2)
    _, height, width = large.shape
    expected = torch.empty_like(large)
    for y in range(height):
        for x in range(width):
            rows = slice(height + y - reach, height + y + reach + 1)
            columns = slice(width + x - reach, width + x + reach + 1)
            expected[:, y, x] = mirrored[:, rows, columns].flatten(1).median(1).values
    torch.testing.assert_close(smooth(maps, factor), expected)


def test_soft_regions_of_two_halves():
    half = (torch.arange(30) % 6 >= 3).float()
    affinity = (half[:, None] == half).float()
    maps = soft_regions(affinity, (5, 6), 0.5, 3)
    assert maps.shape == (2, 20, 24)
    left, right = maps.argmax(0).split(12, dim=1)
    assert not left.any() and right.all()


def test_no_cluster_gives_no_map():
    assert soft_regions(torch.eye(12), (3, 4), 0.5, 2).shape == (0, 12, 16)
