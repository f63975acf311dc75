from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ovseg.recalibration.zero_guidance.sibling_merging import merge_siblings, named_segments, pair_similarity
from ovseg.recalibration.zero_guidance.ward_tree import OverSegments, find_segments, tree_above


def tree(*leaves: int) -> OverSegments:
    """A map with one column for each leaf."""
    return tree_above(list(leaves), torch.arange(len(leaves))[None], torch.zeros(len(leaves), 1))


def table(segments: OverSegments, **pairs: float) -> torch.Tensor:
    """Similarities (n, n), 0 but for the children of the nodes ``n0``, ``n1``, ... that are given."""
    found = torch.zeros(len(segments.nodes), len(segments.nodes))
    for name, value in pairs.items():
        node = int(name[1:])
        a, b = (segments.nodes.index(child) for child in (2 * node + 1, 2 * node + 2))
        found[a, b] = found[b, a] = value
    return found


def ids(segments: OverSegments, rows: list[int]) -> list[int]:
    return [segments.nodes[row] for row in rows]


def test_all_alike_become_one():
    segments = tree(3, 4, 5, 6)
    merged = merge_siblings(segments, torch.ones(7, 7), 0.8)
    assert ids(segments, merged.final) == [0]
    assert merged.similarities == [1.0, 1.0, 1.0]
    assert ids(segments, merged.stored)[0] == 0 and len(merged.stored) == 7


def test_a_pair_that_differs_ends_the_way_up():
    segments = tree(3, 4, 5, 6)
    merged = merge_siblings(segments, table(segments, n1=0.9, n0=1.0), 0.8)
    # The pair 5, 6 differs: 2 never comes to be, so 0 is not even tested.
    assert sorted(ids(segments, merged.final)) == [1, 5, 6]
    assert sorted(merged.similarities) == pytest.approx([0.0, 0.9])


def test_nobody_alike_leaves_the_leaves_in_their_order():
    segments = tree(3, 4, 2)
    merged = merge_siblings(segments, table(segments), 0.8)
    assert ids(segments, merged.final) == [3, 4, 2]
    assert ids(segments, merged.stored) == [3, 4, 2]


def test_the_threshold_itself_merges():
    segments = tree(1, 2)
    assert ids(segments, merge_siblings(segments, table(segments, n0=0.5), 0.5).final) == [0]


def test_an_uncle_is_no_sibling():
    segments = tree(3, 4, 2)
    merged = merge_siblings(segments, table(segments, n1=1.0, n0=0.75), 0.75)
    assert ids(segments, merged.final) == [0]  # 1 = 3 + 4 first, then with 2


def test_a_lone_leaf():
    segments = tree(0)
    assert ids(segments, merge_siblings(segments, torch.ones(1, 1), 0.8).final) == [0]


@pytest.mark.parametrize(("weight", "wanted"), [(1.0, 0.6), (0.0, 0.8), (0.25, 0.75)])
def test_similarity_mixes_image_and_text(weight, wanted):
    images, texts = torch.tensor([[2.0, 0.0], [3.0, 4.0]]), torch.tensor([[1.0, 0.0], [0.8, 0.6]])
    found = pair_similarity(images, texts, weight)
    assert found[0, 1].item() == pytest.approx(wanted)
    torch.testing.assert_close(found.diagonal(), torch.ones(2))


def test_named_segments_cover_the_map_once():
    generator = torch.Generator().manual_seed(0)
    segments = find_segments(torch.randn(6, 5, 8, generator=generator), 9, 1.1)
    embeddings = torch.randn(len(segments.nodes), 10, generator=generator)
    words = F.normalize(torch.randn(7, 10, generator=generator), dim=1)
    for threshold in (-2.0, 0.0, 0.3, 2.0):
        cosines, masks = named_segments(segments, embeddings, words, 0.5, threshold)
        assert cosines.shape == (len(masks), 7) and masks.shape[1:] == (5, 8)
        torch.testing.assert_close(masks.sum(0), torch.ones(5, 8))
    assert len(named_segments(segments, embeddings, words, 0.5, -2.0)[1]) == 1
    assert len(named_segments(segments, embeddings, words, 0.5, 2.0)[1]) == segments.leaves
