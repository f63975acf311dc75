"""Parts of models that refine cost maps: the same a few classes at a time, filled lists, windows, shared guidance."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ovseg.aggregation import classes as classes_module
from ovseg.aggregation.classes import ClassAggregation
from ovseg.aggregation.cost import cost_maps, nearest_classes
from ovseg.aggregation.parts import BUSY, made_in_parts, on_device
from ovseg.aggregation.spatial import SpatialAggregation, attend, shifted_masks
from ovseg.aggregation.upsampling import GuidedUpsampling
from ovseg.errors import ConfigError


def stirred(module):
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    return module.eval()


def test_costs_are_cosines_and_the_nearest_have_the_largest():
    features, texts = 3 * torch.randn(8, 4, 5), torch.randn(6, 2, 8)
    cost = cost_maps(features, texts)
    wanted = F.cosine_similarity(features[None, None], texts[..., None, None], dim=2)
    torch.testing.assert_close(cost, wanted)
    kept = nearest_classes(cost, 3)
    assert kept.tolist() == sorted(cost.amax((1, 2, 3)).argsort(descending=True)[:3].tolist())
    assert nearest_classes(cost, 6) is None and nearest_classes(cost, 0) is None


@pytest.mark.parametrize("kind", ["linear", "full"])
@pytest.mark.parametrize("guidance", [0, 6])
@torch.no_grad()
def test_a_list_that_is_filled_up_is_as_one_with_those_rows(kind, guidance):
    own = stirred(ClassAggregation(8, guidance, 2, attention=kind, fill=7))
    plain = ClassAggregation(8, guidance, 2, attention=kind).eval()
    plain.load_state_dict(own.state_dict(), strict=False)
    x, texts = torch.randn(4, 6, 8), torch.randn(4, guidance) if guidance else None
    rows = torch.cat([x, own.filling.expand(3, 6, -1)])
    led = None if texts is None else torch.cat([texts, own.filling_guidance[0].expand(3, -1)])
    torch.testing.assert_close(own(x.clone(), (2, 3), texts), plain(rows, (2, 3), led)[:4], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("pooling", [(1, 1), (2, 1)])
@torch.no_grad()
def test_classes_a_few_at_a_time(monkeypatch, pooling):
    monkeypatch.setattr(classes_module, "_VALUES", 1)
    own = stirred(ClassAggregation(8, 4, 2, pooling, fill=9))
    x, texts = torch.randn(7, 24, 8), torch.randn(7, 4)
    wanted = own(x.clone(), (4, 6), texts)
    for step in (1, 3, 7):
        torch.testing.assert_close(own(x.clone(), (4, 6), texts, step), wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_sums_over_many_classes_hold_in_half_precision(dtype):
    """The original divides by the number of classes before it sums, which float16 needs."""
    own = stirred(ClassAggregation(8, 0, 2, fill=3000))
    own.v.weight.mul_(200)
    x = torch.randn(2000, 4, 8)
    wanted = own(x.clone(), (2, 2), None)
    with torch.autocast("cpu", dtype):
        found = own(x.clone(), (2, 2), None)
    assert found.isfinite().all()
    assert (found - wanted).abs().mean() < 0.02 * wanted.abs().mean()


def test_masks_of_shifted_windows_move_with_the_weights_and_are_none():
    own = SpatialAggregation(8, 0, (4, 4), 2, 2)
    assert not any("mask" in key for key in own.state_dict())
    assert own.to("meta").blocks[1].mask.is_meta


@pytest.mark.parametrize("step", [0, 1, 3, 5, 9])
def test_what_is_made_in_parts_is_made_once(step):
    x, y = torch.randn(5, 3), torch.randn(5, 2)
    kept, sizes = x.clone(), []

    def run(part, other):
        sizes.append(len(part))
        return torch.cat([part, other], 1)[:, None] * 2

    torch.testing.assert_close(made_in_parts(run, step, x, y), torch.cat([x, y], 1)[:, None] * 2)
    assert torch.equal(x, kept) and sum(sizes) == 5 and max(sizes) == (min(step, 5) or 5)


def test_an_accelerator_takes_more_classes_at_a_time():
    assert [on_device(step, torch.device("cpu")) for step in (0, 8)] == [0, 8]
    assert [on_device(step, torch.device("cuda")) for step in (0, 8)] == [0, 8 * BUSY] and BUSY > 1


@torch.no_grad()
def test_classes_in_another_order_are_the_same():
    own = stirred(ClassAggregation(8, 4, 2))
    x, texts, order = torch.randn(5, 6, 8), torch.randn(5, 4), torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(own(x[order], (2, 3), texts[order]), own(x, (2, 3), texts)[order], atol=1e-5, rtol=1e-4)


def test_shifted_windows_see_what_lies_together():
    masks = shifted_masks((4, 4), 2, 1)
    assert masks.shape == (4, 4, 4) and not masks[0].any()
    assert (masks[3] != 0).sum() == 12  # the last window has four corners of the image


@pytest.mark.parametrize("masked", [False, True])
def test_what_is_trained_attends_alike(masked):
    query, key, value = torch.randn(3, 2, 2, 5, 4)
    mask = torch.randn(5, 5) if masked else None
    with torch.no_grad():
        wanted = attend(query, key, value, mask)
    torch.testing.assert_close(attend(query, key, value, mask), wanted)


@torch.no_grad()
def test_windows_of_a_grid_that_is_no_larger_are_one():
    whole, same = (stirred(SpatialAggregation(8, 0, (4, 4), 2, window)) for window in (9, 4))
    same.load_state_dict(whole.state_dict())
    x = torch.randn(3, 16, 8)
    torch.testing.assert_close(whole(x, None), same(x, None))
    with pytest.raises(ConfigError, match="windows of 3 places do not fill a grid of 4 x 8"):
        SpatialAggregation(8, 0, (4, 8), 2, 3)


@torch.no_grad()
def test_guidance_of_all_and_of_each_is_put_behind_the_maps():
    own = stirred(GuidedUpsampling(12, 16, 4, 3))
    x, shared, each = torch.randn(5, 12, 3, 4), torch.randn(1, 4, 6, 8), torch.randn(5, 3, 6, 8)
    joined = torch.cat([own.up(x), shared.expand(5, -1, -1, -1), each], 1)
    wanted = F.relu(own.norm2(own.conv2(F.relu(own.norm1(own.conv1(joined))))))
    torch.testing.assert_close(own(x, own.share(shared), each), wanted, atol=1e-4, rtol=1e-4)
