"""Masks cut out as pictures."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ovseg.errors import ConfigError, InputError
from ovseg.proposals.crops import MEAN, STD, CropRule, crop_masks


def test_crops_are_what_pytorch_makes_of_each_mask():
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, 41, 57), generator=generator).to(torch.uint8)
    masks = torch.zeros(4, 41, 57)
    masks[0, 3:20, 5:44], masks[1, 40, 56], masks[3] = 0.9, 0.8, 0.7
    found = crop_masks(image, masks, 24, CropRule(expand=1.3))
    assert found.valid.tolist() == [True, True, False, True]
    mean, std = ((255 * torch.tensor(values))[:, None, None] for values in (MEAN, STD))
    for region, cut, box, mask in zip(*found[:2], found.boxes.tolist(), masks[found.valid], strict=True):
        x0, y0, x1, y1 = box
        own = (mask > 0.5).float()[None]
        filled = ((own * image + (1 - own) * mean - mean) / std)[:, y0:y1, x0:x1]
        wanted = F.interpolate(filled[None], (24, 24), mode="bicubic", align_corners=False)[0]
        torch.testing.assert_close(region, wanted, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(cut, F.interpolate(own[None, :, y0:y1, x0:x1], (24, 24))[0])


def test_one_mask_and_none_have_their_obvious_meaning():
    image, masks = torch.zeros(3, 8, 8), torch.zeros(2, 8, 8, dtype=torch.bool)
    empty = crop_masks(image, masks, 4)
    assert empty.regions.shape == (0, 3, 4, 4) and empty.masks.shape == (0, 1, 4, 4) and not empty.valid.any()
    masks[1, 2:4, 3:7] = True
    one = crop_masks(image, masks, 4)
    assert one.tight.tolist() == one.boxes.tolist() == [[3, 2, 7, 4]] and bool(one.masks.all())


def test_mistakes_are_told():
    with pytest.raises(ConfigError, match="expand"):
        CropRule(expand=0.0)
    with pytest.raises(ConfigError, match="fill"):
        CropRule(fill="blur")
    with pytest.raises(InputError, match="expected"):
        crop_masks(torch.zeros(3, 8, 8), torch.zeros(2, 8, 9), 4)
