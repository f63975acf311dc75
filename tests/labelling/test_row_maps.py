"""Labels of maps that are made a few rows at a time are those of whole maps, and nothing larger is held."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ovseg.labelling import row_maps
from ovseg.labelling.row_maps import WholeMaps, at_pixel, class_maps, label_rows
from tests.meta_arch.tester import Largest

CLASSES = torch.tensor([0, 0, 1, 2, -1])


@pytest.mark.parametrize("size", [(7, 9), (40, 61), (300, 5), (1, 1)])
@pytest.mark.parametrize("values", [1, 200, 2**24])
def test_bands_say_what_whole_maps_say(monkeypatch, size, values):
    monkeypatch.setattr(row_maps, "_VALUES", values)
    maps = torch.rand(5, 12, 17)
    every = F.interpolate(maps[None], size, mode="bilinear", align_corners=False)[0]
    labels, scores = label_rows(WholeMaps(maps), CLASSES, size, 0.4)
    best = every.max(0)
    torch.testing.assert_close(scores, best.values)
    wanted = CLASSES[best.indices].masked_fill(best.values < 0.4, -1)
    clear = every.topk(2, dim=0).values.diff(dim=0)[0].abs() > 1e-5
    assert torch.equal(labels[clear].long(), wanted[clear])
    classes = class_maps(WholeMaps(maps), CLASSES, size)
    torch.testing.assert_close(classes, torch.stack([every[:2].amax(0), every[2], every[3]]))
    point = (size[0] - 1, size[1] // 2)
    torch.testing.assert_close(at_pixel(WholeMaps(maps), 5, size, point), every[:, point[0], point[1]])


def test_words_without_a_map_have_zeros():
    some = WholeMaps(torch.rand(2, 6, 6), torch.tensor([1, 3]))
    classes = class_maps(some, CLASSES, (10, 10))
    assert classes.shape == (3, 10, 10) and not classes[1].any() and classes[0].any() and classes[2].any()
    assert set(label_rows(some, CLASSES, (10, 10))[0].unique().tolist()) <= {0, 2}
    assert at_pixel(some, 5, (10, 10), (4, 4)).nonzero().flatten().tolist() == [1, 3]


def test_no_map_of_all_words_is_made(monkeypatch):
    monkeypatch.setattr(row_maps, "_VALUES", 2**16)
    maps = WholeMaps(torch.rand(100, 32, 32))
    with Largest() as largest:
        label_rows(maps, torch.arange(100), (400, 400))
    assert largest.numbers < 100 * 400 * 400 / 10
