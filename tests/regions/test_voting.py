"""Labels that follow regions: checked against the definition, region by region."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ovseg.labelling.scores import upsample
from ovseg.ops.bilinear import bilinear_matrix
from ovseg.ops.windows import plan_windows
from ovseg.regions import mean_labels, vote
from ovseg.regions.voting import region_means

SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 9))


def random_map(low: int, high: int, shape: tuple[int, int], seed: int) -> torch.Tensor:
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=60)
@given(SHAPES, st.integers(0, 4), st.integers(0, 3), st.integers(0, 2**31))
def test_vote_takes_the_most_frequent_label_and_the_smallest_of_equals(shape, classes, regions, seed):
    labels, ids = random_map(-1, classes, shape, seed).int(), random_map(-1, regions, shape, seed + 1)
    expected = labels.clone()
    for region in ids[ids >= 0].unique():
        inside = ids == region
        found = sorted(labels[inside].tolist(), key=lambda label: (label < 0, label))  # no class is the last choice
        expected[inside] = max(found, key=found.count)
    voted = vote(labels, ids)
    assert voted.dtype == torch.int32
    assert torch.equal(voted, expected)


def test_vote_is_by_region_and_leaves_what_is_in_none():
    labels = torch.tensor([[1, 1, 2, 0], [0, 2, 2, -1]], dtype=torch.int32)
    ids = torch.tensor([[7, 7, 3, -1], [7, 3, 3, -1]])
    assert vote(labels, ids).tolist() == [[1, 1, 2, 0], [1, 2, 2, -1]]
    assert labels.tolist() == [[1, 1, 2, 0], [0, 2, 2, -1]]


def test_vote_ties_with_no_class_go_to_the_class():
    labels = torch.tensor([[-1, 5, -1, 5]], dtype=torch.int32)
    assert vote(labels, torch.zeros(1, 4, dtype=torch.int64)).tolist() == [[5, 5, 5, 5]]
    assert vote(torch.full((1, 4), -1).int(), torch.zeros(1, 4, dtype=torch.int64)).tolist() == [[-1] * 4]


@settings(deadline=None, max_examples=40)
@given(SHAPES, st.integers(1, 130), st.integers(1, 40), st.integers(0, 5), st.integers(0, 2**31))
def test_region_means_are_means_of_the_upsampled_scores(grid, height, width, regions, seed):
    scores = torch.randn(3, *grid, generator=torch.Generator().manual_seed(seed))
    rows, columns = bilinear_matrix(grid[0], height).float(), bilinear_matrix(grid[1], width).float()
    ids = random_map(-1, regions, (height, width), seed)
    full = upsample(scores, rows, columns)
    expected = [full[:, ids == region].mean(1) for region in range(int(ids.max()) + 1)]
    found = region_means(scores, rows, columns, ids)
    assert found.shape == (len(expected), 3)
    if expected:
        torch.testing.assert_close(found, torch.stack(expected), atol=1e-5, rtol=1e-4, equal_nan=True)


def test_region_means_of_sliding_windows():
    plan = plan_windows((40, 56), 8, crop=24, stride=16)
    scores = plan.join(torch.randn(len(plan), 4, 3, 3))[0]
    rows, columns = plan.matrices((50, 70))
    ids = random_map(0, 6, (50, 70), 0)
    full = upsample(scores, rows, columns)
    expected = torch.stack([full[:, ids == region].mean(1) for region in range(6)])
    torch.testing.assert_close(region_means(scores, rows, columns, ids), expected, atol=1e-5, rtol=1e-4)


def test_mean_labels_give_a_region_its_best_mean_and_leave_the_rest():
    scores = torch.tensor([[[0.0, 0.0, 0.0, 9.0]], [[1.0, 1.0, 1.0, 0.0]], [[0.9, 2.0, 0.0, 0.0]]])
    rows, columns = torch.eye(1), torch.eye(4)
    labels = torch.tensor([[4, 4, 4, 4]], dtype=torch.int32)
    arguments = (torch.tensor([0, 1, -1]), labels)
    assert mean_labels(scores, rows, columns, torch.tensor([[0, 0, -1, 2]]), *arguments).tolist() == [[-1, -1, 4, 0]]
    assert mean_labels(scores, rows, columns, torch.tensor([[1, 1, 1, -1]]), *arguments).tolist() == [[1, 1, 1, 4]]
    assert mean_labels(scores, rows, columns, torch.full((1, 4), -1), *arguments).tolist() == [[4, 4, 4, 4]]


def test_mean_labels_keep_the_type_of_labels_and_take_half_precision_scores():
    scores = torch.randn(2, 3, 3).half()
    rows = bilinear_matrix(3, 6).float()
    labels = torch.zeros(6, 6, dtype=torch.int32)
    found = mean_labels(scores, rows, rows, random_map(0, 2, (6, 6), 0), torch.tensor([0, 1]), labels)
    assert found.dtype == torch.int32
