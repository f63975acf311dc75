"""The text classifier and the mix of two classifiers."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from ovseg.proposals.classifier import best_of_class, class_logits, class_scale
from ovseg.proposals.ensemble import fuse, void_share, with_void

CLASSES = torch.tensor([0, 0, 1, 2, 2, 2])


def draw(images=2, queries=3, dim=8):
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(images, queries, dim, generator=generator)
    return x, F.normalize(torch.randn(len(CLASSES) + 1, dim, generator=generator), dim=-1)


def test_the_best_name_of_a_class_counts_and_void_comes_last():
    x, rows = draw()
    found = class_logits(x, rows, 10.0, CLASSES, void=True)
    cosines = F.cosine_similarity(x[:, :, None], rows, dim=-1) * 10
    wanted = torch.stack([cosines[..., :2].amax(-1), cosines[..., 2], cosines[..., 3:6].amax(-1), cosines[..., 6]], -1)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(class_logits(x, rows[:-1], 10.0, CLASSES, void=False), wanted[..., :-1])


def test_every_image_may_have_its_own_rows():
    x, rows = draw()
    own = torch.stack([rows, rows.flip(0)])
    found = class_logits(x, own, 3.0, CLASSES, void=True)
    for i in range(2):
        torch.testing.assert_close(found[i : i + 1], class_logits(x[i : i + 1], own[i], 3.0, CLASSES, void=True))


def test_names_need_not_come_class_by_class():
    logits = torch.tensor([[1.0, 5, 3, 4]])
    assert best_of_class(logits, torch.tensor([1, 0, 1, 0])).tolist() == [[5, 3]]
    assert best_of_class(logits, torch.tensor([3, 2, 1, 0])).tolist() == [[4, 3, 5, 1]]


def test_the_gradient_goes_to_the_best_name():
    logits = torch.tensor([1.0, 5, 3], requires_grad=True)
    best_of_class(logits, torch.tensor([0, 0, 1])).sum().backward()
    assert logits.grad.tolist() == [0, 1, 1]


def test_scales_are_bounded():
    assert class_scale(torch.tensor(20.0)).item() == 100
    assert class_scale(torch.tensor(1.0)).item() == torch.tensor(math.e).item()


def test_fusion_is_a_geometric_mean():
    inside, outside = torch.randn(1, 2, 4), torch.randn(1, 2, 4)
    shares = torch.tensor([0.4, 0.8, 0.0, 1.0])
    wanted = inside.softmax(-1) ** (1 - shares) * outside.softmax(-1) ** shares
    torch.testing.assert_close(fuse(inside, outside, shares).exp(), wanted)


def test_fusion_survives_what_the_powers_of_probabilities_do_not():
    inside, outside = torch.tensor([[[0.0, 500]]]), torch.full((1, 1, 2), torch.nan)
    assert fuse(inside, outside, torch.zeros(2)).tolist() == [[[-500, 0]]]
    assert fuse(inside, torch.zeros(1, 1, 2), torch.tensor([0.4, 0.8])).isfinite().all()


def test_void_takes_its_share():
    logits = torch.randn(1, 2, 4)
    scores = with_void(logits[..., :-1], void_share(logits))
    torch.testing.assert_close(scores.exp(), logits.softmax(-1), atol=1e-6, rtol=1e-5)
