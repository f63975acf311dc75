"""The adapter of masks: its maps, and pooling by them."""

from __future__ import annotations

import pytest
import torch

from ovseg.errors import ConfigError
from ovseg.proposals import mask_adapter as module
from ovseg.proposals.mask_adapter import MaskAdapter, mask_adapter, pool_by_maps


@pytest.fixture
def adapter():
    torch.manual_seed(0)
    found = MaskAdapter(12, 16, 3).eval()
    for block in found.blocks:
        torch.nn.init.normal_(block.gamma)  # else blocks start as the identity
    return found.requires_grad_(False)


@torch.no_grad()
def test_masks_are_looked_at_one_by_one(adapter, monkeypatch):
    features, masks = torch.randn(2, 12, 5, 4), torch.rand(2, 7, 40, 32) > 0.5
    whole = adapter(features, masks)
    assert whole.shape == (2, 7 * 3, 5, 4)
    monkeypatch.setattr(module, "HIDDEN_VALUES", 2 * 4 * 16 * 20)  # two at a time
    torch.testing.assert_close(adapter(features, masks), whole)
    alone = adapter(features[1:], masks[1:, 4:5])
    torch.testing.assert_close(alone[0], whole[1, 12:15], atol=1e-5, rtol=1e-4)
    assert adapter(features, masks[:, :0]).shape == (2, 0, 5, 4)


@torch.no_grad()
def test_masks_may_be_of_any_type_and_size(adapter):
    features, masks = torch.randn(1, 12, 5, 4), torch.rand(1, 2, 20, 16) > 0.5
    wanted = adapter(features, masks)
    for dtype in (torch.uint8, torch.float32, torch.float64, torch.bfloat16):
        assert torch.equal(adapter(features, masks.to(dtype)), wanted)
    large = masks.repeat_interleave(3, 2).repeat_interleave(3, 3)
    torch.testing.assert_close(adapter(features, large), wanted)  # of three pixels bilinear resizing reads the middle
    assert not torch.equal(adapter(features, ~masks), wanted)


def test_shares_are_those_of_sigmoids_also_where_all_round_to_zero():
    features, maps = torch.randn(2, 6, 3, 4), torch.randn(2, 5, 3, 4)
    shares = maps.sigmoid().flatten(2)
    wanted = (shares / shares.sum(-1, keepdim=True)) @ features.flatten(2).mT
    torch.testing.assert_close(pool_by_maps(features, maps), wanted)
    torch.testing.assert_close(pool_by_maps(features, maps - 300), maps.flatten(2).softmax(-1) @ features.flatten(2).mT)


def test_gradients_are_those_of_the_formula():
    features, maps = torch.randn(1, 6, 3, 4), torch.randn(1, 5, 3, 4, requires_grad=True)
    (found,) = torch.autograd.grad(pool_by_maps(features, maps).square().sum(), maps)
    shares = maps.sigmoid().flatten(2)
    plain = (shares / shares.sum(-1, keepdim=True)) @ features.flatten(2).mT
    (wanted,) = torch.autograd.grad(plain.square().sum(), maps)
    torch.testing.assert_close(found, wanted)


def test_there_is_one_only_where_it_is_asked_for():
    assert mask_adapter(12) is None
    found = mask_adapter(12, adapter=True, adapter_width=8, adapter_threshold=0.4)
    assert (found.threshold, found.maps, found.fuse.out_channels) == (0.4, 16, 8)


@pytest.mark.parametrize(
    "wrong", [{"adapter_maps": 0}, {"adapter_width": 0}, {"adapter_mask_width": 3}, {"adapter_threshold": 1.0}]
)
def test_mistakes_are_one_line(wrong):
    with pytest.raises(ConfigError, match=r"an adapter has width .*expected at least 1, 1 and 4, and a probability"):
        mask_adapter(12, adapter=True, **wrong)
