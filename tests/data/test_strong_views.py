"""What the student of PixelCLIP sees."""

from __future__ import annotations

import torch

from ovseg.data.strong_views import cut_out, other_colours


def test_colours_stay_in_range_and_change():
    torch.manual_seed(0)
    images = torch.rand(8, 3, 6, 7)
    found = other_colours(images)
    assert found.shape == images.shape and found.min() >= 0 and found.max() <= 1
    assert ((found - images).abs().amax((1, 2, 3)) > 0.01).all()


def test_a_hole_is_one_rectangle_in_image_and_masks():
    torch.manual_seed(0)
    images, masks = torch.ones(5, 3, 40, 60), [torch.ones(n, 40, 60, dtype=torch.bool) for n in (1, 2, 0, 3, 1)]
    view, seen = cut_out(images, masks)
    for image, own, before in zip(view, seen, masks, strict=True):
        hole = image[0] == 0
        rows, columns = hole.any(1), hole.any(0)
        assert own.shape == before.shape and (own == ~hole).all()
        assert hole.equal(rows[:, None] & columns)
        assert 3 <= int(rows.sum()) <= 21 and 5 <= int(columns.sum()) <= 31
