"""Pooling over masks: what it means, its kernel against the plain form, gradients, tracing, mistakes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ovseg.errors import ConfigError, InputError
from ovseg.ops import mask_pool, mask_pooling, resize_masks
from ovseg.ops.mask_pooling import RESIZES, WEIGHTS, mask_pool_plain

OPTIONS = [(weights, resize) for weights in range(len(WEIGHTS)) for resize in range(len(RESIZES))]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}


def inputs(*shape: int, masks: tuple[int, int, int] = (5, 11, 9), seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features of a shape (B, C, h, w) and blobs as mask logits."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(shape[0], masks[0], 4, 4, generator=generator)
    return torch.randn(shape, generator=generator), F.interpolate(coarse, masks[1:], mode="bicubic")


def test_means_inside_of_masks():
    features = torch.arange(12.0).view(1, 2, 2, 3)
    masks = torch.tensor([[[[1.0, -1, -1], [-1, -1, 3]], [[-1.0] * 3] * 2, [[1.0] * 3] * 2, [[0.0] * 3] * 2]])
    found = mask_pool(features, masks)
    assert found.tolist() == [[[2.5, 8.5], [0, 0], [2.5, 8.5], [0, 0]]]  # empty masks are zeros; 0 is not inside


def test_masks_are_resized_before_they_are_cut():
    masks = torch.tensor([[[[-1.0, 3.0], [-1.0, 3.0]]]])
    assert resize_masks(masks, (1, 1)).item() == 1
    assert mask_pool(torch.full((1, 1, 1, 1), 7.0), masks).item() == 7
    assert resize_masks(masks, (1, 1), "max").item() == 3


def test_fcclip_and_maft_plus_pool_like_this():
    features, masks = inputs(2, 6, 8, 8, masks=(5, 32, 32))
    inside = (F.interpolate(masks, (8, 8), mode="bilinear", align_corners=False) > 0).float()
    expected = torch.einsum("bchw,bqhw->bqc", features, inside / (inside.sum((-1, -2))[..., None, None] + 1e-8))
    torch.testing.assert_close(mask_pool(features, masks), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("grid", [(20, 20), (32, 32)])  # of CLIP ViT-B/16 and ViT-L/14: even and uneven windows
def test_a_token_of_san_with_no_scores_of_its_own_pools_like_this(grid):
    values, bias = torch.randn(1, 8, *grid), torch.randn(1, 3, 40, 40)
    pixels = values.flatten(2).mT
    mask = F.adaptive_max_pool2d(bias, grid).flatten(2)
    expected = F.scaled_dot_product_attention(torch.zeros(1, 3, 8), torch.randn_like(pixels), pixels, attn_mask=mask)
    torch.testing.assert_close(mask_pool(values, bias, "softmax", "max"), expected)


@pytest.mark.parametrize(("weights", "resize"), OPTIONS)
def test_masks_that_come_some_at_a_time_make_no_difference(weights, resize, monkeypatch):
    features, masks = inputs(2, 6, 8, 8)
    whole = mask_pool_plain(features, masks, weights, resize)
    monkeypatch.setattr(mask_pooling, "MASKS", 2)
    torch.testing.assert_close(mask_pool_plain(features, masks, weights, resize), whole)


def test_gradients_reach_features_alone():
    features, masks = torch.rand(1, 2, 4, 4, requires_grad=True), torch.randn(1, 3, 8, 8, requires_grad=True)
    mask_pool(features, masks).sum().backward()
    assert features.grad.abs().sum() > 0 and masks.grad is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_has_neither_overflow_nor_division_by_zero(dtype):
    features = torch.full((1, 1, 300, 300), 2.0, dtype=dtype)
    masks = torch.stack([torch.ones(300, 300), -torch.ones(300, 300)])[None].to(dtype)
    for form in (mask_pool, lambda *tensors: mask_pool_plain(*tensors, 0, 0)):
        found = form(features, masks)
        assert found.dtype == dtype
        torch.testing.assert_close(found.float(), torch.tensor([[[2.0], [0.0]]]), atol=0.02, rtol=0)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("masks", [(5, 7, 6), (5, 28, 24), (5, 11, 9), (5, 3, 40), (1, 1, 1)])
def test_the_kernel_agrees_with_the_plain_form(dtype, masks):
    features, logits = (x.to(dtype) for x in inputs(2, 4, 7, 6, masks=masks))
    for weights, resize in OPTIONS:
        found = torch.ops.ovseg.mask_pool(features, logits, weights, resize)
        expected = mask_pool_plain(features.double(), logits, weights, resize)
        assert (found.dtype, found.shape) == (dtype, (2, masks[0], 4))
        torch.testing.assert_close(found.double(), expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.usefixtures("kernels")
@settings(max_examples=30)
@given(st.data())
def test_the_kernel_agrees_in_any_size_and_layout(data):
    sides = st.integers(1, 20)
    batch, channels, queries, *sizes = (data.draw(side) for side in (st.integers(0, 2), sides, sides, *[sides] * 4))
    features, logits = inputs(batch, channels, *sizes[:2], masks=(queries, *sizes[2:]), seed=sum(sizes))
    if data.draw(st.booleans()):
        features = features.contiguous(memory_format=torch.channels_last)
    if data.draw(st.booleans()):
        features = features.transpose(2, 3).contiguous().transpose(2, 3)
    if data.draw(st.booleans()):
        logits = logits.contiguous(memory_format=torch.channels_last)
    if data.draw(st.booleans()):
        logits = logits[:, :1].expand(-1, queries, -1, -1)
    weights, resize = data.draw(st.sampled_from(OPTIONS))
    found = torch.ops.ovseg.mask_pool(features, logits, weights, resize)
    expected = mask_pool_plain(features.double(), logits, weights, resize).float()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.usefixtures("kernels")
def test_the_kernel_finds_the_same_pixels_on_a_grid_of_many_tiles():
    features, logits = inputs(1, 2, 200, 300, masks=(8, 400, 600))
    logits[:, 3:6] = -1
    logits[:, 3, 30, 500:510] = 9  # of most tiles this mask has nothing
    found = torch.ops.ovseg.mask_pool(features, logits, 0, 0)
    torch.testing.assert_close(found, mask_pool_plain(features.double(), logits, 0, 0).float(), atol=1e-5, rtol=0)
    assert not found[0, 4:6].any() and found[0, 3].all()


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("pool", [mask_pool, lambda features, masks: mask_pool_plain(features, masks, 0, 0)])
def test_single_precision_stays_single_under_autocast(pool):
    features, masks = inputs(2, 40, 33, 29)
    masks[:, 1] = -1.0  # a mask without a pixel takes another way through the kernel
    wanted = pool(features, masks)
    with torch.autocast("cpu", torch.bfloat16):
        found = pool(features, masks)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_logits_without_bounds():
    features, logits = inputs(1, 2, 4, 4, masks=(4, 4, 4))
    logits[0, 0], logits[0, 1], logits[0, 2, 1, 1] = 1e30, -1e30, float("nan")
    for weights, resize in OPTIONS:
        found = torch.ops.ovseg.mask_pool(features, logits, weights, resize)
        torch.testing.assert_close(found, mask_pool_plain(features, logits, weights, resize), equal_nan=True)


def test_nothing_to_pool():
    assert mask_pool(torch.zeros(1, 3, 4, 4), torch.zeros(1, 0, 8, 8)).shape == (1, 0, 3)
    assert mask_pool(torch.zeros(0, 3, 4, 4), torch.zeros(0, 2, 8, 8)).shape == (0, 2, 3)
    assert not mask_pool(torch.zeros(1, 3, 0, 4), torch.zeros(1, 2, 8, 8)).any()


@pytest.mark.parametrize("path", ["plain", "kernel"])
@pytest.mark.parametrize(("weights", "resize"), OPTIONS)
def test_gradients_are_those_of_differences(request, path, weights, resize):
    if path == "kernel":
        request.getfixturevalue("kernels")
    features, logits = (x.double().requires_grad_() for x in inputs(2, 3, 4, 3, masks=(2, 7, 6)))
    soft = WEIGHTS[weights] != "inside"
    call = torch.ops.ovseg.mask_pool

    def pool(*tensors: Tensor) -> Tensor:
        return call(tensors[0], tensors[1] if soft else logits.detach(), weights, resize)

    assert torch.autograd.gradcheck(pool, (features, logits) if soft else (features,))


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(("weights", "resize"), OPTIONS)
def test_the_operator_is_registered_soundly(weights, resize):
    features, logits = (x.requires_grad_() for x in inputs(1, 3, 4, 5))
    torch.library.opcheck(torch.ops.ovseg.mask_pool.default, (features, logits, weights, resize))


class Pool(torch.nn.Module):
    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        return mask_pool(features, logits, "sigmoid") + mask_pool(features, logits)


@pytest.mark.usefixtures("kernels")
def test_compiles_and_exports():
    features, logits = inputs(1, 3, 4, 5)
    expected = Pool()(features, logits)
    compiled = torch.compile(Pool(), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(features, logits), expected)
    exported = torch.export.export(Pool(), (features, logits))
    torch.testing.assert_close(exported.module()(features, logits), expected)
    assert "ovseg.mask_pool" in str(exported.graph)


@pytest.mark.parametrize(
    ("features", "masks", "message"),
    [
        (torch.zeros(3, 4, 4), torch.zeros(1, 2, 4, 4), r"\(3, 4, 4\).*expected \(B, C, h, w\)"),
        (torch.zeros(2, 3, 4, 4), torch.zeros(1, 2, 4, 4), "expected"),
        (torch.zeros(1, 3, 4, 4), torch.zeros(1, 2, 0, 4), "of a pixel or more"),
        (torch.zeros(1, 3, 4, 4), torch.zeros(1, 2, 4, 4, dtype=torch.bool), "torch.bool on cpu; expected floating"),
        (torch.zeros(1, 3, 4, 4), torch.zeros(1, 2, 4, 4, device="meta"), "on meta; expected .* one device"),
    ],
)
def test_mistakes(features, masks, message):
    with pytest.raises(InputError, match=message):
        mask_pool(features, masks)


@pytest.mark.parametrize("options", [("hard",), ("inside", "nearest")])
def test_unknown_options(options):
    with pytest.raises(ConfigError, match=f"'{options[-1]}'; expected one of"):
        mask_pool(torch.zeros(1, 3, 4, 4), torch.zeros(1, 2, 4, 4), *options)
