"""Matching and set losses: against literal sums, and at the edges that training meets."""

from __future__ import annotations

import itertools
import os

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from ovseg.errors import ConfigError
from ovseg.losses.criterion import SetCriterion, average_targets, mask_bce, mask_dice
from ovseg.losses.matcher import Prediction, Target, match, matching_costs
from ovseg.losses.points import sample_masks, sample_points

SMALL = SetCriterion(points=20)


def make(seed, counts, queries=5, classes=4, stages=1, dtype=torch.float32):
    torch.manual_seed(seed)
    batch = len(counts)
    predictions = [
        Prediction(
            torch.randn(batch, queries, classes + 1, dtype=dtype).requires_grad_(),
            torch.randn(batch, queries, 6, 8, dtype=dtype).requires_grad_(),
        )
        for _ in range(stages)
    ]
    targets = [Target(torch.randint(0, classes, (n,)), torch.rand(n, 12, 16) > 0.6) for n in counts]
    return predictions, targets


def literal_cost(prediction, target, points, image):
    """Every pair by itself."""
    probabilities = prediction.class_logits[image].softmax(-1)
    cost = torch.zeros(probabilities.shape[0], len(target.labels))
    for q, t in itertools.product(range(cost.shape[0]), range(cost.shape[1])):
        x = sample_points(prediction.mask_logits[image, q][None, None], points)[0, 0]
        y = sample_masks(target.masks, torch.tensor([t]), points)[0]
        dice = 1 - (2 * (x.sigmoid() * y).sum() + 1) / (x.sigmoid().sum() + y.sum() + 1)
        cost[q, t] = -2 * probabilities[q, target.labels[t]] + 5 * F.binary_cross_entropy_with_logits(x, y) + 5 * dice
    return cost


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.lists(st.integers(0, 4), min_size=1, max_size=3))
def test_costs_and_matches(seed, counts):
    (prediction,), targets = make(seed, counts)
    points = torch.rand(len(counts), 20, 2)
    costs = matching_costs(prediction, targets, points)
    for image, (cost, target) in enumerate(zip(costs, targets, strict=True)):
        wanted = literal_cost(prediction, target, points[image, None], image).detach()
        torch.testing.assert_close(cost, wanted, atol=1e-4, rtol=1e-4)
    for cost, pairs in zip(costs, match(costs), strict=True):
        assert pairs.queries.tolist() == sorted(set(pairs.queries.tolist()))
        assert sorted(pairs.targets.tolist()) == list(range(cost.shape[1]))
        orders = itertools.permutations(range(cost.shape[0]), cost.shape[1])
        best = min(sum(float(cost[q, t]) for t, q in enumerate(order)) for order in orders)
        assert float(cost[pairs.queries, pairs.targets].sum()) == pytest.approx(best, abs=1e-4)


def test_more_targets_than_queries():
    predictions, targets = make(0, [7], queries=3)
    pairs = SMALL.match(predictions[0], targets)[0]
    assert len(pairs.queries) == 3 and len(set(pairs.targets.tolist())) == 3
    assert all(loss.isfinite() for loss in SMALL(predictions, targets).values())


def test_losses_of_a_perfect_answer_are_small():
    masks = torch.zeros(2, 16, 16, dtype=torch.bool)
    masks[0, :8], masks[1, 8:] = True, True
    target = Target(torch.tensor([2, 0]), masks)
    logits = torch.full((1, 3, 4), -20.0)
    logits[0, [0, 1, 2], [0, 2, 3]] = 20
    shown = torch.full((1, 3, 16, 16), -30.0)
    shown[0, 0, 8:], shown[0, 1, :8] = 30, 30
    everywhere = SetCriterion(points=500, importance=0)  # not only at the borders
    losses = everywhere.losses([Prediction(logits, shown)], [target])
    assert losses["loss_ce"] < 1e-6 and losses["loss_dice"] < 0.1
    wrong = everywhere.losses([Prediction(logits.flip(-1), shown.mT)], [target])
    assert wrong["loss_ce"] > 10 and wrong["loss_mask"] > 5 * losses["loss_mask"]


def test_names_weights_and_order_of_stages():
    predictions, targets = make(1, [2, 1], stages=3)
    criterion = SetCriterion(points=20, loss_weights=(1.0, 10.0, 100.0))
    torch.manual_seed(5)
    plain = criterion.losses(predictions, targets)
    torch.manual_seed(5)
    weighted = criterion(predictions, targets)
    names = [f"loss_{part}{stage}" for stage in ("", "_0", "_1") for part in ("ce", "mask", "dice")]
    assert list(plain) == list(weighted) == names
    for name in names:
        factor = {"ce": 1, "mask": 10, "dice": 100}[name.split("_")[1]]
        assert float(weighted[name].detach()) == pytest.approx(factor * float(plain[name].detach()), rel=1e-5)


def test_void_weighs_less():
    predictions, targets = make(2, [1])
    logits = predictions[0].class_logits.detach()
    (pairs,) = matches = SMALL.match(predictions[0], targets)
    wanted = torch.full((5,), 4)
    wanted[pairs.queries] = targets[0].labels[pairs.targets]
    each = F.cross_entropy(logits[0], wanted, reduction="none")
    share = torch.where(wanted == 4, 0.1, 1.0)
    expected = (each * share).sum() / share.sum()
    torch.testing.assert_close(SMALL.class_loss(logits, targets, matches), expected)


@pytest.mark.parametrize("counts", [[0, 3], [0], [0, 0]])
def test_images_without_targets_are_legal_and_reach_every_output(counts):
    predictions, targets = make(3, counts, stages=2)
    total = sum(SMALL(predictions, targets).values())
    total.backward()
    for prediction in predictions:
        assert prediction.class_logits.grad.isfinite().all() and prediction.class_logits.grad.abs().sum() > 0
        assert prediction.mask_logits.grad is not None and prediction.mask_logits.grad.isfinite().all()
    if not any(counts):
        assert float(SMALL.losses(predictions, targets)["loss_mask"].detach()) == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_and_autocast(dtype):
    predictions, targets = make(4, [2, 3], dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16):
        losses = SMALL(predictions, targets)
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert predictions[0].mask_logits.grad.dtype == dtype


def test_sums_over_pairs():
    logits, truth = torch.randn(3, 7), (torch.rand(3, 7) > 0.5).float()
    each = [F.binary_cross_entropy_with_logits(x, y) for x, y in zip(logits, truth, strict=True)]
    torch.testing.assert_close(mask_bce(logits, truth), torch.stack(each).sum())
    assert mask_dice(torch.full((2, 5), 50.0), torch.ones(2, 5)) < 1e-6


def test_mistakes():
    predictions, targets = make(5, [2])
    bad = [Target(torch.tensor([1, 4]), targets[0].masks)]
    with pytest.raises(ConfigError, match=r"range from 1 to 4; expected 0 to 3"):
        SMALL(predictions, bad)
    for settings_ in ({"points": 0}, {"oversample": 0.5}, {"importance": 1.5}):
        with pytest.raises(ConfigError, match="expected points >= 1"):
            SetCriterion(**settings_)
    with torch.no_grad():
        predictions[0].class_logits[0, 0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match="matching cost is not finite"):
        SMALL(predictions, targets)


def _count(rank, folder, found):
    os.environ["OMP_NUM_THREADS"] = "1"
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    _, targets = make(0, [3, 2] if rank else [0])
    found[rank] = float(average_targets(targets, torch.device("cpu")))
    dist.destroy_process_group()


def test_targets_are_averaged_over_processes(tmp_path):
    with mp.Manager() as manager:
        found = manager.dict()
        mp.spawn(_count, (str(tmp_path), found), nprocs=2)
        assert dict(found) == {0: 2.5, 1: 2.5}
    assert average_targets(make(0, [0])[1], torch.device("cpu")) == 1
