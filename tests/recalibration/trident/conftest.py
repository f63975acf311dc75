from __future__ import annotations

import pytest
import torch

import ovseg
from tests.recalibration.trident.small import tiny_sam


@pytest.fixture(scope="module")
def sam():
    torch.manual_seed(0)
    found = tiny_sam()
    for name, parameter in found.named_parameters():
        if "rel_pos" in name:
            parameter.data = 0.3 * torch.randn_like(parameter)
    found.mask_decoder.iou_prediction_head.layers[-1].bias.data += 0.5  # what it says of masks is in 0..1
    return found.requires_grad_(False)


@pytest.fixture(scope="module")
def clip(tiny_clip):
    return ovseg.load(f"clip/{tiny_clip}", "cpu").model.clip
