"""Deformable attention against a loop over every sample."""

from __future__ import annotations

import math

import pytest
import torch

from ovseg.ops import ms_deform_attn
from ovseg.ops.ms_deform_attn import pixel_centres, sample_bags, sample_grids

SHAPES = [(3, 4), (2, 5), (1, 1)]


def draw(dtype=torch.float32, batch=2, heads=2, dim=3, count=5, points=2):
    generator = torch.Generator().manual_seed(1)
    tokens = sum(h * w for h, w in SHAPES)
    value = torch.randn(batch, tokens, heads, dim, generator=generator, dtype=dtype)
    places = torch.rand(batch, count, heads, len(SHAPES), points, 2, generator=generator, dtype=dtype) * 1.6 - 0.3
    weights = torch.rand(batch, count, heads, len(SHAPES), points, generator=generator, dtype=dtype)
    return value, places, weights


def looped(value, places, weights):
    """Sample by hand: the four pixels around each place, zero where there is none."""
    batch, count, heads, levels, points, _ = places.shape
    starts = [sum(h * w for h, w in SHAPES[:i]) for i in range(levels)]
    found = value.new_zeros(batch, count, heads, value.shape[-1])
    for b, m, n, level, p in torch.cartesian_prod(*map(torch.arange, (batch, count, heads, levels, points))).tolist():
        height, width = SHAPES[level]
        x, y = (places[b, m, n, level, p].double() * torch.tensor([width, height]) - 0.5).tolist()
        for row in (math.floor(y), math.floor(y) + 1):
            for column in (math.floor(x), math.floor(x) + 1):
                if 0 <= row < height and 0 <= column < width:
                    share = (1 - abs(y - row)) * (1 - abs(x - column))
                    pixel = value[b, starts[level] + row * width + column, n]
                    found[b, m, n] += weights[b, m, n, level, p] * share * pixel
    return found.flatten(2)


WAYS = pytest.mark.parametrize("sample", [sample_bags, sample_grids])


@WAYS
def test_it_samples_as_a_loop_does(sample):
    value, places, weights = draw()
    torch.testing.assert_close(sample(value, SHAPES, places, weights), looped(value, places, weights))


@WAYS
def test_gradients(sample):
    inputs = [x.requires_grad_() for x in draw(torch.float64, batch=1, count=2)]
    assert torch.autograd.gradcheck(lambda v, p, w: sample(v, SHAPES, p, w), inputs)


@pytest.mark.parametrize("place", [-5.0, -1.0, 0.0, 0.5, 1.0, 2.0, 1e6])
def test_places_far_outside_give_zeros(place):
    value, places, weights = draw()
    places = torch.full_like(places, place)
    found = sample_bags(value, SHAPES, places, weights)
    torch.testing.assert_close(found, sample_grids(value, SHAPES, places, weights))
    assert (found == 0).all() or -0.5 < place < 1.5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    value, places, weights = draw()
    found = ms_deform_attn(value.to(dtype), SHAPES, places, weights)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), looped(value, places, weights), atol=0.05, rtol=0.02)


def test_centres_look_at_their_own_pixels():
    value, _, _ = draw()
    centres = pixel_centres(SHAPES)
    tokens = value.shape[1]
    start = SHAPES[0][0] * SHAPES[0][1]
    weights = torch.zeros(2, start, 2, len(SHAPES), 1)
    weights[..., 0, :] = 1
    places = centres[:start, None, None, None].expand(2, start, 2, len(SHAPES), 1, 2)
    assert centres.shape == (tokens, 2)
    assert centres[1].tolist() == pytest.approx([1.5 / 4, 0.5 / 3])
    torch.testing.assert_close(ms_deform_attn(value, SHAPES, places, weights), value[:, :start].flatten(2))


def test_it_compiles_without_a_break():
    inputs = draw()
    compiled = torch.compile(lambda v, p, w: ms_deform_attn(v, SHAPES, p, w), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(*inputs), ms_deform_attn(inputs[0], SHAPES, *inputs[1:]))
