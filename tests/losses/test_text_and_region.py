"""Losses of regions and texts: margins, residual distillation, RegionCLIP's, dense alignment; and their goldens."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from ovseg.errors import ConfigError, UnknownNameError
from ovseg.losses.margin import margin_logits, margin_loss
from ovseg.losses.mask_classes import ALIGNMENTS, MaskClassLoss
from ovseg.losses.region_text import (
    concept_contrast,
    focal_loss,
    head_scores,
    image_text,
    name_regions,
    teacher_divergence,
    with_objectness,
)
from ovseg.losses.residual_distillation import ResidualBranch, ResidualDistillation, residual_distance

ROOT = Path(__file__).parents[2]


def rows(count, dim=8, seed=0):
    return F.normalize(torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_goldens(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    sys.modules.pop("check_golden", None)
    import check_golden

    cases = sorted((ROOT / "tests/golden/text_and_region").glob("*.json"))
    assert len(cases) == 7
    for case in cases:
        report = check_golden.check_case(case)
        assert report.status == "PASS", report


def test_a_margin_is_the_wider_the_less_texts_are_alike():
    features, texts, labels = rows(4), rows(3, seed=1), torch.tensor([0, 2, 1, 0])
    plain = 10 * features @ texts.mT
    found = margin_logits(features, texts, labels, 10, 0.3)
    torch.testing.assert_close(plain - found, 10 * 0.3 * (texts @ texts.mT)[labels])
    assert margin_loss(features, texts, labels, 10, 0.3) > margin_loss(features, texts, labels, 10, 0.0)
    torch.testing.assert_close(margin_loss(features, texts, labels, 10, 0.0), F.cross_entropy(plain, labels))


def test_a_new_branch_gives_what_it_takes():
    branch, x, frozen = ResidualBranch(8), rows(5), rows(5, seed=2)
    assert torch.equal(branch(x), x)
    torch.testing.assert_close(residual_distance(x, frozen, branch), (1 - (x * frozen).sum(1)).mean())
    kept = ResidualDistillation(8, ratio=3.0)
    torch.testing.assert_close(kept(x, frozen), 3 * residual_distance(x, frozen, branch))
    both = kept(x, frozen, rows(2), rows(2, seed=5))
    assert both > kept(x, frozen)
    with pytest.raises(ConfigError, match="ratio is -1"):
        ResidualDistillation(8, ratio=-1)


@pytest.mark.parametrize("alignment", ALIGNMENTS)
@pytest.mark.parametrize("margin", [0.0, 0.3])
def test_of_one_place_all_alignments_are_one(alignment, margin):
    features = torch.randn(8, 2, 3, generator=torch.Generator().manual_seed(0))
    masks, texts = torch.zeros(2, 2, 3), rows(4, seed=3)
    masks[0, 0, 1], masks[1, 1, 2] = 1.0, 0.5
    labels = torch.tensor([1, 3])
    seen = F.normalize(torch.stack([features[:, 0, 1], features[:, 1, 2]]), dim=1)
    found = MaskClassLoss(alignment=alignment, margin=margin)(features, masks, labels, texts, 20.0)
    torch.testing.assert_close(found, margin_loss(seen, texts, labels, 20.0, margin))


@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_masks_that_cover_nothing_do_not_count(alignment):
    features = torch.randn(8, 2, 3, requires_grad=True)
    masks, labels, texts = torch.rand(2, 2, 3), torch.tensor([0, 1]), rows(2)
    loss = MaskClassLoss(alignment=alignment)
    alone = loss(features, masks[:1], labels[:1], texts)
    masks[1] = 0
    torch.testing.assert_close(loss(features, masks, labels, texts), alone)
    nothing = loss(features, masks[1:], labels[1:], texts)
    nothing.backward()
    assert float(nothing) == 0 and features.grad is not None and not features.grad.any()


def test_dense_alignment_by_hand():
    features, masks = torch.randn(8, 2, 2), torch.tensor([[[1.0, 0.5], [0.0, 0.5]]])
    texts, label = rows(3), torch.tensor([2])
    logits = 10 * F.normalize(features.flatten(1).mT, dim=1) @ texts.mT
    weights = torch.tensor([0.5, 0.25, 0.0, 0.25])
    found = MaskClassLoss(alignment="logits")(features, masks, label, texts, 10)
    torch.testing.assert_close(found, F.cross_entropy((weights @ logits)[None], label))
    found = MaskClassLoss(alignment="probabilities")(features, masks, label, texts, 10)
    torch.testing.assert_close(found, -(weights @ logits.softmax(1))[2].log())


def test_mask_class_options():
    with pytest.raises((ConfigError, UnknownNameError), match="alignment"):
        MaskClassLoss(alignment="sum")
    with pytest.raises(ConfigError, match=r"margin is -0\.1"):
        MaskClassLoss(margin=-0.1)


def test_unsure_regions_are_left_out_unless_all_are():
    concepts = torch.eye(3, 8)
    regions = torch.stack([concepts[1], concepts.sum(0)])
    named = name_regions(regions, concepts, 0.9)
    assert named.kept.tolist() == [True, False] and named.names.tolist() == [1]
    named = name_regions(regions[1:], concepts, 0.9)
    assert named.kept.tolist() == [True] and len(named.probabilities) == 1


def test_divergence_is_finite_where_the_original_is_not():
    concepts = torch.eye(2, 8)
    student = (-concepts[:1]).requires_grad_()  # cosines of -1 and 0: behind the softmax a logarithm of zero
    loss = teacher_divergence(student * 2, concepts, torch.tensor([[1.0, 0.0]]))
    loss.backward()
    assert loss.isfinite() and student.grad.isfinite().all() and float(loss) == pytest.approx(100, rel=1e-3)
    same = name_regions(concepts, concepts, 0.0)
    assert float(teacher_divergence(concepts, concepts, same.probabilities)) == pytest.approx(0, abs=1e-5)


def test_regions_with_one_name_are_all_right():
    concepts, student = rows(4), rows(3, seed=4)
    assert float(concept_contrast(student, concepts, torch.tensor([2, 2, 2]))) == pytest.approx(0, abs=1e-5)
    names = torch.tensor([2, 0, 2])
    chances = (student @ concepts[names].mT / 0.01).softmax(1)
    wanted = -(chances * (names[:, None] == names)).sum(1).log().mean()
    torch.testing.assert_close(concept_contrast(student, concepts, names), wanted, rtol=1e-3, atol=1e-4)


def test_image_text_is_symmetric():
    images, texts = rows(5), rows(5, seed=6)
    torch.testing.assert_close(image_text(images, texts), image_text(texts, images))


def test_the_head_knows_no_class_and_counts_it_less():
    regions, texts, labels = rows(4), rows(3, seed=7), torch.tensor([3, 3, 0, 1])
    scores = head_scores(regions, texts)
    assert scores.shape == (4, 4)
    assert not scores[:, 3].any()
    plain = F.cross_entropy(scores, labels, reduction="none")
    torch.testing.assert_close(focal_loss(scores, labels, 0.0, -1.0), plain.mean())
    weighed = plain * torch.tensor([0.2, 0.2, 1, 1])
    torch.testing.assert_close(focal_loss(scores, labels, 0.0), weighed.mean())
    focal = weighed * (1 - scores.softmax(1)[range(4), labels]) ** 0.5
    torch.testing.assert_close(focal_loss(scores, labels), focal.mean())


def test_objectness_is_a_geometric_mean():
    found = with_objectness(torch.tensor([[0.25, 1.0], [0.5, 0.0]]), torch.tensor([1.0, 0.5]))
    torch.testing.assert_close(found, torch.tensor([[0.5, 1.0], [0.5, 0.0]]))
