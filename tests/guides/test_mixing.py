from __future__ import annotations

import torch

from ovseg.guides.mixing import masked_softmax, resize_patches


def test_masked_softmax_keeps_the_diagonal():
    weights = masked_softmax(torch.randn(1, 3, 3), torch.zeros(1, 3, 3, dtype=torch.bool))
    torch.testing.assert_close(weights, torch.eye(3)[None])


def test_resizing_keeps_rows_and_columns_apart():
    patches = torch.arange(3.0).repeat(2)[None, :, None]  # column numbers on a grid of 2 x 3
    found = resize_patches(patches, (2, 3), (4, 6)).view(4, 6)
    assert found[0].equal(found[3]) and found[0, 0] < found[0, 5]
    assert resize_patches(patches, (2, 3), (2, 3)) is patches
