"""Packed linear layers and weights in lower precision, beside the layers that they take the place of."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import ovseg
from ovseg.errors import EnvironmentProblem
from ovseg.ops import linear_layers
from ovseg.ops.linear_layers import PackedLinear, can_pack, fast_products, lower_products, pack_linears
from ovseg.system.device import CPU

needs_packing = pytest.mark.skipif(not can_pack(), reason="this PyTorch has no packed layers")


@needs_packing
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5, 24), (2, 3, 7, 24), (1, 24), (0, 24)])
def test_a_packed_layer_gives_what_the_layer_gives(dtype, bias, shape):
    torch.manual_seed(0)
    linear = nn.Linear(24, 40, bias=bias).to(dtype)
    x = torch.randn(shape).to(dtype)
    with torch.inference_mode():
        expected, found = linear(x), PackedLinear(linear)(x)
    assert found.dtype == dtype and found.shape == expected.shape
    torch.testing.assert_close(found, expected, atol=1e-5 if dtype == torch.float32 else 1e-2, rtol=1e-2)


@needs_packing
def test_a_packed_layer_takes_inputs_of_other_strides_and_dtypes():
    linear = nn.Linear(8, 12)
    x = torch.randn(2, 8, 3, 5).permute(0, 2, 3, 1)
    torch.testing.assert_close(PackedLinear(linear)(x.double()), linear(x).detach(), atol=1e-5, rtol=1e-5)


@needs_packing
def test_every_plain_linear_layer_is_packed_once_and_no_other():
    shared = nn.Linear(8, 8)
    model = nn.Sequential(shared, nn.Sequential(nn.GELU(), nn.Linear(8, 4)), nn.MultiheadAttention(8, 2))
    pack_linears([model, model[1]])
    assert [type(layer) for layer in (model[0], model[1][1])] == [PackedLinear, PackedLinear]
    assert type(model[2].out_proj) is not PackedLinear


@needs_packing
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("gelu", ["torch", "timm"])
def test_an_exact_gelu_is_packed_with_the_layer_before_it_and_no_other(dtype, gelu):
    from timm.layers import Mlp
    from timm.layers.activations import GELU

    torch.manual_seed(0)
    mlp = Mlp(16, 32, act_layer=GELU if gelu == "timm" else nn.GELU).to(dtype)
    tanh = Mlp(16, 32, act_layer=lambda: nn.GELU("tanh")).to(dtype)
    x = torch.randn(5, 16).to(dtype)
    expected = [mlp(x).detach(), tanh(x).detach()]
    pack_linears([mlp, tanh])
    assert [type(mlp.act), type(tanh.act)] == [nn.Identity, nn.GELU]
    atol = 1e-5 if dtype == torch.float32 else 1e-2
    for packed, plain in zip((mlp, tanh), expected, strict=True):
        torch.testing.assert_close(packed(x).detach(), plain, atol=atol, rtol=1e-2)


def test_says_so_where_weights_cannot_be_packed(monkeypatch):
    monkeypatch.setattr(linear_layers, "can_pack", lambda: False)
    with pytest.raises(EnvironmentProblem, match="cannot pack weights here"):
        PackedLinear(nn.Linear(2, 2))
    with pytest.raises(EnvironmentProblem, match="only the CPU"):
        PackedLinear(nn.Linear(2, 2, device="meta"))


def test_only_weights_of_products_are_lowered():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.LayerNorm(4), nn.Linear(4, 4), nn.MultiheadAttention(4, 2))
    lower_products([model], torch.bfloat16)
    kinds = {name: weight.dtype for name, weight in model.named_parameters()}
    assert {name for name, dtype in kinds.items() if dtype == torch.float32} == {"1.weight", "1.bias"}
    with torch.autocast("cpu", torch.bfloat16):
        assert model[:3](torch.randn(1, 3, 4, 4)).isfinite().all()


@pytest.fixture
def slow_mkl(monkeypatch):
    """A processor on which oneDNN shall multiply."""
    monkeypatch.setattr(linear_layers, "_mkl_is_slow", lambda: True)
    monkeypatch.setattr(linear_layers, "_LARGE", 0)


class Seen(torch.utils._python_dispatch.TorchDispatchMode):
    """Notes the rows of the products that oneDNN makes."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if "mkldnn" in str(function):
            self.rows.append(len(args[0]))
        return function(*args, **(kwargs or {}))


@needs_packing
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("shape", "blocks"), [((600, 24), 2), ((2, 3, 128, 24), 3), ((255, 24), 0), ((24,), 0), ((0, 24), 0)]
)
def test_onednn_gives_what_the_layer_gives(slow_mkl, bias, shape, blocks):
    torch.manual_seed(0)
    linear, x = nn.Linear(24, 40, bias=bias), torch.randn(shape)
    with torch.inference_mode():
        expected = linear(x)
        with fast_products(CPU), Seen() as seen:
            found = linear(x)
    assert len(seen.rows) == blocks and found.shape == expected.shape
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@needs_packing
def test_small_products_are_left_to_mkl(slow_mkl, monkeypatch):
    monkeypatch.setattr(linear_layers, "_LARGE", 512 * 24 * 40)
    linear = nn.Linear(24, 40)
    with torch.inference_mode(), fast_products(CPU), Seen() as seen:
        linear(torch.randn(511, 24))
        linear(torch.randn(512, 24))
    assert len(seen.rows) == 2


@needs_packing
def test_onednn_takes_what_does_not_lie_in_one_piece(slow_mkl):
    linear, x = nn.Linear(24, 40), torch.randn(24, 300)
    with torch.inference_mode(), fast_products(CPU), Seen() as seen:
        turned, wide = linear(x.mT), linear(x[:, :1].mT.expand(300, 24))
    assert len(seen.rows) == 2
    torch.testing.assert_close(turned, x.mT @ linear.weight.mT + linear.bias, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(wide[299], linear(x[:, 0]), atol=1e-5, rtol=1e-5)


@needs_packing
def test_onednn_meets_one_size_only(slow_mkl):
    """It keeps memory for each; twenty people with photographs of their own cost 500 MB in a minute."""
    linear = nn.Linear(24, 40)
    with torch.inference_mode(), fast_products(CPU), Seen() as seen:
        for count in range(1, 2000, 37):
            linear(torch.randn(2, count, 24))
    assert len(seen.rows) > 300 and len(set(seen.rows)) == 1


@needs_packing
def test_onednn_leaves_alone_what_is_no_plain_product(slow_mkl):
    linear, x = nn.Linear(24, 24), torch.randn(300, 24)
    with fast_products(CPU), Seen() as seen:  # gradients are wanted
        linear(x).sum().backward()
    with torch.inference_mode(), fast_products(CPU), Seen() as others:
        with torch.autocast("cpu", torch.bfloat16):
            assert linear(x).dtype == torch.bfloat16
        linear.double()(x.double())
        nn.functional.linear(x, torch.randn(24, 24).mT)
    with torch.inference_mode(), fast_products(torch.device("cuda")), Seen() as elsewhere:
        linear.float()(x)
    assert not seen.rows + others.rows + elsewhere.rows


def test_mkl_is_left_alone_on_processors_of_intel(monkeypatch):
    monkeypatch.setattr(linear_layers, "processor", lambda: "GenuineIntel Intel(R) Xeon(R)")
    assert not linear_layers._mkl_is_slow.__wrapped__()


@needs_packing
@pytest.mark.filterwarnings("ignore:.*knows drawings alone")
def test_images_and_texts_go_through_it(slow_mkl):
    model = ovseg.load("mini-clearclip", device="cpu", dtype="fp32").model
    with Seen() as images:
        model.encode([torch.zeros(3, 320, 320)])
    with Seen() as texts:
        model.clip.text([f"text {number} of this test" for number in range(64)])
    assert len(images.rows) > 4 and len(texts.rows) > 4
