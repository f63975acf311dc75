from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ovseg.recalibration.corrclip.merging import merge_regions, renumber, resize_ids


def test_resize_takes_the_nearest_pixel():
    ids = torch.arange(24).view(1, 4, 6)
    assert resize_ids(ids, (2, 3)).tolist() == [[[0, 2, 4], [12, 14, 16]]]
    assert resize_ids(-ids - 1, (4, 6)).equal(-ids - 1)


def test_renumber_counts_each_image_from_zero():
    ids, count = renumber(torch.tensor([[7, 3, -1, 7], [9, -5, 9, 9]]))
    assert ids.tolist() == [[1, 0, -1, 1], [0, -1, 0, 0]]
    assert count == 2
    assert renumber(torch.full((1, 3), -1)) == (pytest.approx(torch.full((1, 3), -1)), 0)


def chain(angles):
    """Unit vectors in the plane, one place each."""
    return torch.stack([torch.tensor(angles).cos(), torch.tensor(angles).sin()], -1)[None]


def test_chains_of_likeness_are_one_region():
    angles = [0.0, 0.3, 0.6, 0.9, 2.0]  # neighbours within 0.05, the ends of the chain far apart
    assert merge_regions(torch.arange(5)[None], chain(angles), 0.05).tolist() == [[0, 0, 0, 0, 1]]
    assert merge_regions(torch.arange(5)[None], chain(angles), 0.01).tolist() == [[0, 1, 2, 3, 4]]


def test_no_region_stays_none_and_means_nothing():
    ids = torch.tensor([[-1, 5, 2, -3]])
    assert merge_regions(ids, chain([0.0, 0.0, 1.5, 1.5]), 0.1).tolist() == [[-1, 1, 0, -1]]
    assert merge_regions(-torch.ones(2, 3, dtype=torch.long), torch.randn(2, 3, 4), 0.1).tolist() == [[-1] * 3] * 2


def test_is_what_a_search_finds_and_a_batch_is_its_images():
    torch.manual_seed(0)
    ids, features = torch.randint(-1, 12, (3, 200)), F.normalize(torch.randn(3, 200, 3), dim=-1)
    ids[1] = ids[1].clamp(max=1)
    together = merge_regions(ids, features, 0.02)
    for image in range(3):
        assert merge_regions(ids[image : image + 1], features[image : image + 1], 0.02).equal(
            together[image : image + 1]
        )
        assert together[image].equal(search(ids[image], features[image], 0.02))


def search(ids, features, distance):
    """Merge by walking from region to region."""
    known = [region for region in ids.unique().tolist() if region >= 0]
    means = F.normalize(torch.stack([features[ids == region].mean(0) for region in known]), dim=-1)
    cosines = means @ means.T
    near = cosines.max() - cosines <= distance
    found = torch.full_like(ids, -1)
    left, count = list(range(len(known))), 0
    while left:
        todo = [left[0]]
        while todo:
            at = todo.pop()
            if at in left:
                left.remove(at)
                found[ids == known[at]] = count
                todo += near[at].nonzero().flatten().tolist()
        count += 1
    return found
