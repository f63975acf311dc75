from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ovseg.vocabulary.autoclip import template_weights


def similarities(seed: int, images: int = 3, texts: int = 5, templates: int = 7) -> Tensor:
    return torch.rand(images, texts, templates, generator=torch.Generator().manual_seed(seed))


def entropy(weights: Tensor) -> Tensor:
    return torch.special.entr(weights.double()).sum(1)


def test_the_step_follows_the_gradient_of_the_log_sum_exp() -> None:
    found = similarities(0)
    rho = torch.zeros(3, 7, requires_grad=True)
    torch.einsum("btm,bm->bt", found, rho.softmax(1)).logsumexp(1).sum().backward()
    weights = template_weights(found, 0.85)
    step = weights.log() - weights.log().mean(1, keepdim=True)
    assert rho.grad is not None
    assert torch.cosine_similarity(step, rho.grad - rho.grad.mean(1, keepdim=True)).allclose(torch.ones(3), atol=1e-4)


@given(st.integers(0, 1000), st.floats(0.05, 0.99), st.integers(2, 80), st.floats(1e-3, 1e3))
def test_entropy_is_the_share_of_the_largest(seed: int, share: float, templates: int, scale: float) -> None:
    weights = template_weights(similarities(seed, templates=templates) * scale, share)
    assert weights.sum(1).allclose(torch.ones(3))
    assert torch.allclose(entropy(weights), torch.full((3,), share * math.log(templates)).double(), atol=2e-3)


def test_better_templates_weigh_more() -> None:
    weights = template_weights(torch.tensor([[[0.3, 0.2, 0.1], [0.25, 0.2, 0.15]]]), 0.85)[0]
    assert weights[0] > weights[1] > weights[2]


@pytest.mark.parametrize("share", [0.5, 0.85, 1.0])
def test_templates_that_are_alike_stay_equal(share: float) -> None:
    weights = template_weights(torch.full((2, 4, 5), 0.3), share)
    assert torch.allclose(weights, torch.full((2, 5), 0.2))
    two = template_weights(torch.tensor([[[0.3, 0.3, 0.1]]]), 0.05)  # no step parts the two best
    assert torch.allclose(two, torch.tensor([[0.5, 0.5, 0.0]]), atol=1e-3)


def test_images_do_not_see_each_other() -> None:
    found = similarities(3)
    apart = torch.cat([template_weights(one, 0.85) for one in found.split(1)])
    assert torch.allclose(template_weights(found, 0.85), apart, atol=1e-6)


def test_half_precision() -> None:
    found = similarities(4)
    assert torch.allclose(template_weights(found.bfloat16(), 0.85), template_weights(found, 0.85), atol=0.03)
