from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from ovseg.recalibration.zero_guidance.ward_tree import (
    find_segments,
    over_segments,
    soft_masks,
    tree_above,
    ward_merges,
    ward_splits,
)

linkage = pytest.importorskip("scipy.cluster.hierarchy").linkage


def unit(count: int, channels: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(count, channels, generator=torch.Generator().manual_seed(seed)), dim=1)


def clusters(centres: int, each: int, spread: float = 0.05) -> torch.Tensor:
    """Unit rows (centres * each, 8) around orthogonal directions, cluster after cluster."""
    noise = spread * torch.randn(centres * each, 8, generator=torch.Generator().manual_seed(1))
    return F.normalize(torch.eye(8)[:centres].repeat_interleave(each, 0) + noise, dim=1)


@given(st.integers(2, 40), st.integers(2, 6), st.integers(0, 5))
def test_merges_are_those_of_scipy(count, channels, seed):
    points = unit(count, channels, seed).double().numpy()
    tree = linkage(points, "ward")
    wanted: list[set[int]] = [{i} for i in range(count)]
    for left, right in tree[:, :2].astype(int):
        wanted.append(wanted[left] | wanted[right])
    found: list[set[int]] = [{i} for i in range(count)]
    for step, (a, b) in enumerate(ward_merges(points)):
        left, right = (next(node for node in reversed(found) if point in node) for point in (a, b))
        assert left.isdisjoint(right)
        found.append(left | right)
        assert found[count + step] == wanted[count + step]


@pytest.mark.parametrize(("count", "parts"), [(30, 8), (30, 30), (5, 20), (2, 3)])
def test_children_divide_their_parents(count, parts):
    splits = ward_splits(unit(count, 4), parts)
    number = min(count, parts) - 1
    assert splits.masks.shape == (2 * number, count)
    assert splits.parents[0] == -1 and len(splits.parents) == number
    for split, parent in enumerate(splits.parents):
        first, second = splits.masks[2 * split : 2 * split + 2]
        whole = torch.ones(count, dtype=torch.bool) if parent < 0 else splits.masks[parent]
        assert not (first & second).any() and torch.equal(first | second, whole)
        assert first.any() and second.any()
    torch.testing.assert_close(splits.similarity.diagonal(), torch.ones(2 * number))


def test_the_first_splits_find_clusters():
    points = clusters(4, 6)
    found = over_segments(points, ward_splits(points, 12), 0.5)
    assert found.leaves == 4
    own = found.labels.view(4, 6)
    assert (own == own[:, :1]).all() and own[:, 0].unique().numel() == 4


def test_the_larger_the_threshold_the_more_leaves():
    points = unit(60, 5)
    splits = ward_splits(points, 16)
    counts = [over_segments(points, splits, t / 10).leaves for t in range(-10, 12)]
    assert counts == sorted(counts)
    assert counts[0] == 2 and counts[-1] == 16  # the first split is always made


def test_only_the_first_half_of_the_splits():
    points = unit(60, 5)
    splits = ward_splits(points, 9)
    assert over_segments(points, splits, 1.1).leaves == 9
    assert over_segments(points, splits, 1.1, used=5).leaves == 6
    features = points.mT.unflatten(1, (6, 10))
    assert find_segments(features, 9, 1.1, half=True).leaves == 6  # ceil(9 / 2) splits


def test_tree_ids_are_places_in_a_heap():
    points = unit(40, 4)
    found = over_segments(points, ward_splits(points, 10), 1.1)
    leaves, nodes = found.nodes[: found.leaves], set(found.nodes)
    assert nodes == set(leaves) | {(node - 1) // 2 for node in nodes if node}
    rows = {node: found.under[row] for row, node in enumerate(found.nodes)}
    assert rows[0].all()
    for row, leaf in enumerate(leaves):
        assert rows[leaf].nonzero().flatten().tolist() == [row]
    for node in nodes.difference(leaves):
        assert torch.equal(rows[node], rows[2 * node + 1] | rows[2 * node + 2])


def test_a_deep_tree_counts_beyond_64_bits():
    ids, node = [], 0
    for _ in range(80):
        ids.append(2 * node + 1)
        node = 2 * node + 2
    found = tree_above([*ids, node], torch.zeros(1, dtype=torch.long), torch.zeros(81, 1))
    assert max(found.nodes) > 2**64 and len(found.nodes) == 161
    assert found.under.sum().item() == 81 + sum(range(2, 82))


@pytest.mark.parametrize("size", [(1, 1), (1, 3), (2, 1)])
def test_few_points(size):
    found = find_segments(torch.randn(4, *size), 20, 1.1)
    assert found.labels.shape == size and found.leaves == size[0] * size[1]
    assert found.under[found.nodes.index(0)].all()


def test_equal_points():
    found = find_segments(torch.ones(4, 5, 6), 8, 0.9)
    assert found.labels.unique().numel() == 1 and found.centroids.isfinite().all()


def test_masks_of_nodes_on_another_grid():
    found = find_segments(torch.randn(4, 7, 9), 6, 1.1)
    masks = found.masks((3, 4))
    assert masks.shape == (len(found.nodes), 12)
    torch.testing.assert_close(masks[found.nodes.index(0)], torch.ones(12))
    leaves = soft_masks(found.labels, (7, 9), found.leaves)
    torch.testing.assert_close(leaves.argmax(0), found.labels)
