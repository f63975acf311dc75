"""Boxes: the patches they cover, the bias over them, grids of them, and captions that choose."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ovseg.errors import ConfigError, InputError
from ovseg.regions.boxes import (
    bowl,
    box_blocks,
    check_boxes,
    covered,
    grid_boxes,
    mask_cover,
    paint,
    rescale,
    score_regions,
)


def test_an_edge_on_a_border_belongs_to_the_patch_before():
    boxes = torch.tensor([[0, 0, 32, 32], [32, 16, 33, 16.5], [0, 0, 500, 1], [-9, -9, -1, -1], [10, 10, 10, 10]])
    assert box_blocks(boxes, 16, (3, 5)).tolist() == [
        [0, 0, 1, 1],
        [1, 0, 2, 1],
        [0, 0, 4, 0],
        [0, 0, 0, 0],
        [0, 0, 0, 0],
    ]


def test_cover_and_bowl():
    blocks = torch.tensor([[1, 0, 3, 2], [2, 1, 2, 1], [0, 2, 1, 3]])
    cover, bias = covered(blocks, (4, 5)), bowl(blocks, (4, 5))
    assert cover.sum((1, 2)).tolist() == [9, 1, 4]
    assert not bias[~cover].any()
    assert bias[0, 1, 2] == 1 and bias[0, 0, 1] < 0.02 and bias[0, 0, 2] == pytest.approx(0.5, abs=0.02)
    assert bias[1:][cover[1:]].tolist() == [1.0] * 5  # no patch of these is nearer than another


@given(
    st.tuples(st.integers(1, 300), st.integers(1, 300)),
    st.lists(st.floats(0.05, 1.0), min_size=1, max_size=3),
    st.integers(4, 32),
)
def test_a_grid_of_boxes_covers_every_patch(size, scales, patch):
    boxes = grid_boxes(size, tuple(scales))
    height, width = size
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2] <= width + 1e-9).all() and (boxes[:, 3] <= height + 1e-9).all()
    grid = (max(1, height // patch), max(1, width // patch))
    assert covered(box_blocks(boxes, patch, grid), grid).any(0).all()


def test_the_grid_goes_row_by_row_with_the_overlap():
    boxes = grid_boxes((100, 200), (1.0, 0.5))
    assert boxes.shape == (10, 4)
    assert boxes[0].tolist() == [0, 0, 200, 100]
    assert boxes[1:5].tolist() == [[0, 0, 100, 50], [50, 0, 150, 50], [100, 0, 200, 50], [0, 25, 100, 75]]


def test_masks_cover_the_patches_they_touch():
    masks = torch.zeros(2, 60, 90, dtype=torch.bool)
    masks[0, 0, 0] = masks[1, 59, 29:31] = True
    assert mask_cover(masks, (2, 3)).nonzero().tolist() == [[0, 0, 0], [1, 1, 0], [1, 1, 1]]


def test_paint_is_the_mean_of_unit_embeddings():
    embeddings = torch.tensor([[[3.0, 0.0], [0.0, 0.5]]])
    cover = torch.tensor([[[True, True, False]], [[False, True, False]]])
    features = paint(embeddings, cover)
    assert features.flatten(2)[0].mT.tolist() == [[1, 0], [0.5, 0.5], [0, 0]]


def test_captions_choose_regions():
    regions, captions = torch.tensor([[2.0, 0.0], [1.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0], [5.0, 5.0]])
    found = score_regions(regions, captions, logit_scale=10.0)
    assert found.best.tolist() == [0, 1, 1]
    torch.testing.assert_close(found.probabilities.sum(0), torch.ones(3))
    assert found.logits[0, 0] == 10
    # The second caption says nothing that the negative does not say: its advantage is gone.
    against = score_regions(regions, captions, 10.0, negatives=torch.tensor([[0.0, 1.0]]))
    torch.testing.assert_close(against.logits[:, 1], torch.zeros(2))


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        (torch.zeros(0, 4), r"shape \(0, 4\); expected \(R, 4\)"),
        (torch.zeros(4), r"shape \(4,\); expected"),
        (torch.tensor([[0, 0, 1, 1], [5.0, 0, 4, 1]]), "box 1 is .* expected x0 <= x1"),
        (torch.tensor([[0, 0, float("nan"), 1]]), "box 0 is"),
    ],
)
def test_what_is_no_box(boxes, message):
    with pytest.raises(InputError, match=message):
        check_boxes(boxes)
    with pytest.raises(InputError, match=message):
        rescale(boxes, (10, 10), (20, 20))


@pytest.mark.parametrize("scales", [(), (0.0,), (0.5, 1.5)])
def test_wrong_scales(scales):
    with pytest.raises(ConfigError, match="expected at least one share of the image"):
        grid_boxes((10, 10), scales)
