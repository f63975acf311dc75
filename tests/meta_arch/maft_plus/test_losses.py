"""MAFT+: the shortcuts of its losses against literal sums, and the transfer of content."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from ovseg.errors import InputError
from ovseg.losses.matcher import Target
from ovseg.meta_arch.maft_plus.content_transfer import ContentTransfer
from ovseg.meta_arch.maft_plus.mask_aware import fit_of_masks, mask_aware_loss, spread
from ovseg.meta_arch.maft_plus.representation import representation_loss, strip_pool
from ovseg.proposals.sine_position import sine_position


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 6), st.integers(6, 20), st.integers(0, 3))
def test_fit_without_upsampling(seed, height, width, size, count):
    torch.manual_seed(seed)
    logits, masks = torch.randn(4, height, width) * 3, torch.rand(count, size, size + 3) > 0.5
    shares = F.interpolate(logits.sigmoid()[None], masks.shape[1:], mode="bilinear", align_corners=False)[0]
    fits = fit_of_masks(logits, masks)
    assert fits.shape == (count, 4)
    for t, q in torch.cartesian_prod(torch.arange(count), torch.arange(4)).tolist():
        both = (shares[q] * masks[t]).sum()
        wanted = both / (masks[t].sum() + shares[q].sum() - both + 1e-7)
        torch.testing.assert_close(fits[t, q], wanted, atol=1e-5, rtol=1e-4)


def test_probability_that_follows_the_fit_costs_nothing():
    masks = torch.zeros(1, 8, 8, dtype=torch.bool)
    masks[0, :4] = True
    shown = torch.full((1, 2, 8, 8), -30.0)
    shown[0, 0, :4], shown[0, 1, 4:] = 30, 30
    logits = torch.tensor([[[30.0, -30.0, 0.0], [-30.0, 30.0, 0.0]]])
    target = [Target(torch.tensor([0]), masks)]
    assert mask_aware_loss(logits, shown, target) < 1e-6
    assert mask_aware_loss(logits, shown.flip(1), target) == pytest.approx(0.5)


def test_gradients_of_the_mask_aware_loss():
    logits, shown = torch.randn(2, 3, 5, requires_grad=True), torch.randn(2, 3, 4, 4, requires_grad=True)
    targets = [
        Target(torch.tensor([1, 3]), torch.rand(2, 8, 8) > 0.5),
        Target(torch.zeros(0).long(), torch.ones(0, 8, 8)),
    ]
    mask_aware_loss(logits, shown, targets).backward()
    assert logits.grad[0].abs().sum() > 0 and not logits.grad[1].any() and not logits.grad[..., -1].any()
    assert shown.grad is None


def test_a_batch_without_targets():
    logits = torch.randn(1, 3, 5, requires_grad=True)
    none = [Target(torch.zeros(0).long(), torch.zeros(0, 8, 8, dtype=torch.bool))]
    loss = mask_aware_loss(logits, torch.randn(1, 3, 4, 4), none)
    loss.backward()
    assert float(loss.detach()) == 0 and logits.grad is not None


def test_spread_of_equal_fits():
    assert spread(torch.full((1, 4), 0.3)).tolist() == [[0, 0, 0, 0]]


def test_strips_of_a_small_map():
    features = torch.arange(16.0).view(1, 1, 4, 4)
    cells = F.avg_pool2d(features, 2)
    wanted = [features.mean()] * 2 + [*cells.sum(2).flatten(), *cells.sum(3).flatten()]
    wanted += [*features.sum(2).flatten(), *features.sum(3).flatten()]
    assert strip_pool(features)[0].tolist() == pytest.approx([float(x) for x in wanted])
    assert not strip_pool(-features).any()


def test_representation_loss():
    student = torch.randn(2, 3, 5, 9, requires_grad=True)
    assert representation_loss(student, student) == 0
    teacher = torch.randn(2, 3, 5, 9, requires_grad=True)
    representation_loss(student, teacher).backward()
    assert student.grad.abs().sum() > 0 and teacher.grad is None
    with pytest.raises(InputError, match="3 cells wide; expected at least 4"):
        representation_loss(torch.randn(1, 2, 6, 3), torch.randn(1, 2, 6, 3))


def test_transfer_is_that_of_torch():
    torch.manual_seed(0)
    module, known = ContentTransfer(16, transfer_heads=4), torch.nn.MultiheadAttention(16, 4, batch_first=True)
    known.load_state_dict(module.attention.state_dict())
    features, texts = torch.randn(2, 16, 3, 5), F.normalize(torch.randn(7, 16), dim=-1)
    value = features.flatten(2).mT
    key = value + sine_position((3, 5), 16).flatten(1).mT
    change, _ = known(texts.expand(2, -1, -1), key, value)
    torch.testing.assert_close(module(features, texts), module.norm(texts + module.linear(change)))


def test_panoptic_transfer_starts_as_the_identity():
    texts = torch.randn(7, 16)
    adapted = ContentTransfer(16, transfer_heads=4, panoptic_transfer=True)(torch.randn(2, 16, 3, 5), texts)
    assert torch.equal(adapted, texts.expand(2, -1, -1))


def test_rows_do_not_see_each_other():
    torch.manual_seed(0)
    module, features, texts = ContentTransfer(16, transfer_heads=4), torch.randn(1, 16, 4, 4), torch.randn(5, 16)
    torch.testing.assert_close(module(features, texts)[:, 1:3], module(features, texts[1:3]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_transfer_in_other_precisions(dtype):
    module = ContentTransfer(16, transfer_heads=4, panoptic_transfer=True).to(dtype)
    assert module(torch.randn(1, 16, 3, 3, dtype=dtype), torch.randn(4, 16)).dtype == dtype
