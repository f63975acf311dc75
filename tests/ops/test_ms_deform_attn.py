"""Deformable attention against a loop over every sample: the plain forms, and the operator with its kernels."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ovseg.errors import InputError
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
def test_queries_that_come_some_at_a_time_make_no_difference(sample, monkeypatch):
    inputs = draw(count=5)
    whole = sample(inputs[0], SHAPES, *inputs[1:])
    monkeypatch.setattr(sys.modules[sample_bags.__module__], "QUERIES", 2)
    assert torch.equal(sample(inputs[0], SHAPES, *inputs[1:]), whole)


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


SIZES = [side for shape in SHAPES for side in shape]
OPERATOR = torch.ops.ovseg.ms_deform_attn.default
BACKWARD = torch.ops.ovseg.ms_deform_attn_backward.default


def check_operator(dtype):
    """Run all of PyTorch's own tests of operators."""
    value, places, weights = (x.to(dtype) if i == 0 else x for i, x in enumerate(draw()))
    torch.library.opcheck(BACKWARD, (torch.randn(2, 5, 6).to(dtype), value, SIZES, places, weights))
    torch.library.opcheck(OPERATOR, (value.requires_grad_(), SIZES, places.requires_grad_(), weights.requires_grad_()))


def check_gradients(dim=3):
    """Compare with differences in double precision, and with the tape of the plain form in single."""
    inputs = [x.requires_grad_() for x in draw(torch.float64, batch=1, count=2, dim=dim)]
    assert torch.autograd.gradcheck(lambda v, p, w: ms_deform_attn(v, SHAPES, p, w), inputs)
    inputs = [x.requires_grad_() for x in draw(dim=dim)]
    wanted = torch.autograd.grad(sample_grids(inputs[0], SHAPES, *inputs[1:]).square().sum(), inputs)
    found = torch.autograd.grad(ms_deform_attn(inputs[0], SHAPES, *inputs[1:]).square().sum(), inputs)
    for own, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(own, other, atol=1e-4, rtol=1e-4)


def test_the_operator_keeps_the_rules():
    check_operator(torch.float32)


def test_gradients_of_the_operator():
    check_gradients()


def test_there_are_first_derivatives_only():
    value, places, weights = draw()
    found = ms_deform_attn(value.requires_grad_(), SHAPES, places, weights).square().sum()
    (gradient,) = torch.autograd.grad(found, value, create_graph=True)
    with pytest.raises(NotImplementedError, match="first derivatives only"):
        gradient.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_operator_keeps_the_rules_with_kernels(kernels, dtype):
    check_operator(dtype)


@pytest.mark.parametrize("dim", [1, 8, 32, 37])
def test_gradients_of_kernels(kernels, dim):
    check_gradients(dim)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 70), st.integers(1, 3), st.integers(0, 6), st.integers(0, 2), st.integers(0, 2**31))
def test_kernels_sample_as_the_plain_form(kernels, dim, heads, count, batch, seed):
    generator = torch.Generator().manual_seed(seed)
    value = torch.randn(batch, 23, heads, dim, generator=generator)
    places = torch.rand(batch, count, heads, 3, 2, 2, generator=generator) * 1.6 - 0.3
    weights = torch.rand(batch, count, heads, 3, 2, generator=generator)
    found = ms_deform_attn(value, SHAPES, places, weights)
    torch.testing.assert_close(found, sample_grids(value, SHAPES, places, weights), atol=1e-5, rtol=1e-5)


def test_kernels_take_any_layout(kernels):
    value, places, weights = draw()
    turned = [x.transpose(0, 1).contiguous().transpose(0, 1) for x in (value, places, weights)]
    wanted = looped(value, places, weights)
    torch.testing.assert_close(ms_deform_attn(turned[0], SHAPES, *turned[1:]), wanted)
    every_other = torch.stack([value, -value], -1).flatten(-2)[..., ::2]
    torch.testing.assert_close(ms_deform_attn(every_other, SHAPES, places, weights), wanted)


@pytest.mark.parametrize("place", [-1e30, -0.5, 1.5, 1e30, torch.inf, torch.nan])
def test_kernels_find_nothing_outside(kernels, place):
    value, places, weights = draw()
    found = ms_deform_attn(value, SHAPES, torch.full_like(places, place), weights)
    assert (found == 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_kernels_add_up_half_precision_in_single(kernels, dtype):
    value, places, weights = draw()
    found = ms_deform_attn(value.to(dtype), SHAPES, places, weights)
    wanted = looped(value.to(dtype).float(), places, weights)
    assert torch.equal(found, ms_deform_attn(value.to(dtype).float(), SHAPES, places, weights).to(dtype))
    torch.testing.assert_close(found.float(), wanted, atol=2e-2, rtol=1e-2)


def test_gradients_of_kernels_do_not_depend_on_threads(kernels):
    value, places, weights = draw(count=40, dim=32)
    grad, before = torch.ones(2, 40, 64), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(BACKWARD(grad, value, SIZES, places, weights))
    finally:
        torch.set_num_threads(before)
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize("batch, count", [(0, 5), (2, 0)])
def test_nothing_gives_nothing(batch, count):
    inputs = [x.requires_grad_() for x in draw(batch=batch, count=count)]
    found = ms_deform_attn(inputs[0], SHAPES, *inputs[1:])
    assert found.shape == (batch, count, 6)
    found.sum().backward()
    assert all((x.grad == 0).all() for x in inputs)


def test_inputs_that_do_not_fit_are_refused():
    value, places, weights = draw()
    for inputs, message in (
        ((value[0], SHAPES, places, weights), "expected \\(B, N, heads, d\\)"),
        ((value.long(), SHAPES, places, weights), "floating point numbers on one device"),
        ((value, SHAPES, places, weights.to("meta")), "floating point numbers on one device"),
        ((value, SHAPES[:2], places, weights), "of 2 levels"),
        ((value, SHAPES, places[..., :1], weights), "expected \\(2, 5, 2, 3, 2, 2\\)"),
        ((value[:, 1:], SHAPES, places, weights), "got 22 values"),
        ((value, [(3, 4), (11, 1), (0, 1)], places, weights), "expected one a pixel"),
    ):
        with pytest.raises(InputError, match=message):
            ms_deform_attn(*inputs)


def test_kernels_refuse_what_they_cannot_read(kernels):
    value, places, weights = draw()
    for inputs in (
        (value[:, 1:], SIZES, places, weights),
        (value, SIZES[:-1], places, weights),
        (value, [3, 4, 11, 1, 0, 1], places, weights),
        (value, SIZES, places[:1], weights),
        (value, SIZES, places, weights[..., :1]),
        (value[0], SIZES, places, weights),
    ):
        with pytest.raises(ValueError, match="ms_deform_attn got"):
            OPERATOR(*inputs)
    with pytest.raises(TypeError, match="floating point"):
        OPERATOR(value.long(), SIZES, places, weights)
    with pytest.raises(ValueError, match="a gradient"):
        BACKWARD(torch.zeros(2, 5, 5), value, SIZES, places, weights)


def test_it_is_exported(kernels):
    class Module(torch.nn.Module):
        def forward(self, value, places, weights):
            return ms_deform_attn(value, SHAPES, places, weights)

    inputs = draw()
    exported = torch.export.export(Module(), inputs).module()
    torch.testing.assert_close(exported(*inputs), looped(*inputs))


def test_it_compiles_without_a_break():
    inputs = draw()
    compiled = torch.compile(lambda v, p, w: ms_deform_attn(v, SHAPES, p, w), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(*inputs), ms_deform_attn(inputs[0], SHAPES, *inputs[1:]))
