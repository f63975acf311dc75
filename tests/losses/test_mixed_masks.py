"""Masks by which an adapter learns: which are drawn, which fit, what an image gets that has too few, and the losses."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ovseg.errors import ConfigError
from ovseg.losses.matcher import Target
from ovseg.losses.mixed_masks import (
    NO_CLASS,
    AdapterRule,
    draw_true,
    masks_to_learn,
    match_by_overlap,
    overlaps,
    uniform_pick,
)


def squares(*sides, size=16):
    """Masks with a square in the upper left corner."""
    masks = torch.zeros(len(sides), size, size, dtype=torch.bool)
    for mask, side in zip(masks, sides, strict=True):
        mask[:side, :side] = True
    return masks


def first(among, count):
    return torch.arange(count)


def never(among, count):
    raise AssertionError("nothing is drawn where all are taken")


@given(st.lists(st.integers(0, 3), max_size=9), st.integers(1, 6), st.integers(0, 999))
def test_empty_masks_are_left_out_and_the_rest_is_drawn(sides, count, seed):
    torch.manual_seed(seed)
    target = Target(torch.arange(len(sides)), squares(*sides, size=4))
    full = [row for row, side in enumerate(sides) if side]
    found = draw_true(target, count, uniform_pick if len(full) > count else never)
    kept = found.labels.tolist()
    assert len(kept) == len(set(kept)) == min(count, len(full)) and set(kept) <= set(full)
    assert torch.equal(found.masks, target.masks[found.labels])
    assert kept == full or len(full) > count


def test_overlaps_by_hand():
    logits = torch.where(squares(4, 8, 0), 3.0, -3.0)
    found = overlaps(logits, squares(4, 2).float(), 0.5)
    torch.testing.assert_close(found, torch.tensor([[1, 4 / 16], [16 / 64, 4 / 64], [0, 0]]), atol=1e-5, rtol=0)
    soft = torch.full((1, 4, 4), -0.2)  # a probability of 0.45
    assert overlaps(soft, squares(4, size=4).float(), 0.4) > 0.99 and not overlaps(soft, squares(4, size=4), 0.5)


def test_a_proposal_may_fit_several_and_what_fits_none_is_left_out():
    logits = torch.where(squares(8, 3), 4.0, -4.0)[None]
    target = Target(torch.tensor([5, 6, 7]), squares(8, 8, 12))
    pairs = match_by_overlap(logits, [target], AdapterRule(adapter_matched_masks=4), first)
    assert pairs.labels.tolist() == [[5, 6, NO_CLASS, NO_CLASS]]
    assert torch.equal(pairs.logits[0, :2], logits[0, :1].expand(2, -1, -1)) and not pairs.logits[0, 2:].any()
    assert torch.equal(pairs.truth[0, :2], target.masks[:2].float()) and not pairs.truth[0, 2:].any()
    last = lambda among, count: torch.arange(among).flip(0)[:count]  # noqa: E731
    assert match_by_overlap(logits, [target], AdapterRule(adapter_matched_masks=1), last).labels.tolist() == [[6]]


def test_draws_among_all_that_fit():
    logits = torch.where(squares(8, 8, 8, 2), 4.0, -4.0)[None] + torch.arange(4.0).view(1, 4, 1, 1) / 10
    target = Target(torch.tensor([0]), squares(8))
    torch.manual_seed(0)
    rule = AdapterRule(adapter_matched_masks=1)
    drawn = {match_by_overlap(logits, [target], rule).logits.max().item() for _ in range(40)}
    assert drawn == {logits[0, i].max().item() for i in range(3)}


@pytest.mark.parametrize(("threshold", "full"), [(0.5, False), (0.45, True)])
def test_an_image_without_a_fit_gets_masks_that_do_not_count(threshold, full):
    """As in the original, which cuts logits of 0 at its threshold: below one half they are the whole image."""
    targets = [Target(torch.tensor([1]), squares(8)), Target(torch.zeros(0, dtype=torch.long), squares())]
    rule = AdapterRule(adapter_true_masks=2, adapter_matched_masks=3)
    logits = torch.full((2, 4, 4, 4), -5.0)
    masks, labels = masks_to_learn(targets, logits, rule, threshold, (16, 16), (8, 8), never)
    assert masks.shape == (2, 2 + 2 * 3, 8, 8) and labels.tolist() == [[1] + 7 * [-1], 8 * [-1]]
    assert masks[0, 0].mean() == 0.25 and not masks[0, 1].any() and not masks[1, :2].any() and not masks[:, 5:].any()
    assert masks[:, 2:5].all() == masks[:, 2:5].any() == full
    alone, same = masks_to_learn(targets, None, rule, threshold, (16, 16), (8, 8), never)
    assert torch.equal(alone, masks[:, :2]) and torch.equal(same, labels[:, :2])


def test_losses_count_what_has_a_class_and_pairs():
    rule = AdapterRule(adapter_true_masks=1, adapter_matched_masks=2, adapter_loss_weights=(2.0, 5.0))
    logits, embeddings = torch.randn(1, 5, 4), torch.randn(1, 5, 6)
    labels = torch.tensor([[2, 1, NO_CLASS, 1, NO_CLASS]])
    found = rule.losses(logits, embeddings, labels)
    rows = [0, 1, 3]
    wanted = 2 * torch.nn.functional.cross_entropy(logits[0, rows], labels[0, rows])
    torch.testing.assert_close(found["loss_ce"], wanted)
    near = torch.nn.functional.cosine_similarity(embeddings[0, 1:3], embeddings[0, 3:], dim=-1)
    torch.testing.assert_close(found["loss_cosine"], 5 * (1 - near.mean()))
    alike = torch.cat([embeddings[:, :3], 7 * embeddings[:, 1:3]], 1)
    assert rule.losses(logits, alike, labels)["loss_cosine"].abs() < 1e-5
    assert set(AdapterRule(adapter_stage="ground-truth").losses(logits, embeddings, labels)) == {"loss_ce"}


def test_a_batch_without_a_class_has_no_loss_but_gradients():
    logits = torch.randn(2, 3, 4, requires_grad=True)
    loss = AdapterRule(adapter_stage="ground-truth").losses(logits, logits, torch.full((2, 3), NO_CLASS))["loss_ce"]
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss == 0 and not gradient.any()


@pytest.mark.parametrize("both", [True, False])
def test_whether_true_masks_move_too(both):
    rule = AdapterRule(adapter_matched_masks=2, adapter_target_gradient=both)
    embeddings = torch.randn(1, 5, 6, requires_grad=True)
    loss = rule.losses(torch.randn(1, 5, 4), embeddings, torch.full((1, 5), 1))["loss_cosine"]
    (gradient,) = torch.autograd.grad(loss, embeddings)
    assert gradient[0, 1:3].any() and bool(gradient[0, 3:].any()) == both and not gradient[0, 0].any()


def test_mistakes_are_one_line():
    with pytest.raises(ConfigError, match="adapter_stage is 'warmup'; expected one of ground-truth, mixed"):
        AdapterRule(adapter_stage="warmup")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("true_masks", 0, "is 0; expected at least 1"),
        ("matched_masks", -1, "is -1; expected at least 1"),
        ("overlap", 1.5, "is 1.5; expected a share from 0 to below 1"),
        ("overlap", 70, "is 70; expected a share from 0 to below 1"),
        ("inside", 40, "is 40; expected 0 to 1"),
        ("inside", float("nan"), "is nan; expected 0 to 1"),
        ("loss_weights", (2.0, -5.0), "is -5.0; expected at least 0"),
        ("loss_weights", (2.0,), "is (2.0,); expected two, of classes and pairs"),
    ],
)
def test_numbers_out_of_range(name, value, message):
    with pytest.raises(ConfigError, match=re.escape(f"adapter_{name} {message}")):
        AdapterRule(**{f"adapter_{name}": value})
