"""Linear layers for inference alone: lower precision, weights laid out once, and oneDNN where MKL is slow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ovseg.errors import EnvironmentProblem
from ovseg.system.device import CPU, is_cpu, processor


class PackedLinear(nn.Module):
    """A linear layer on the CPU whose weight lies as oneDNN multiplies it.

    PyTorch leaves float32 products to MKL (see `fast_products`), and lays bfloat16 weights out anew at every call. Both
    go away when the weight is laid out once. Only for inference: the weight can neither be trained nor saved.
    """

    def __init__(self, linear: nn.Linear, gelu: bool = False) -> None:
        """Take over the weights of a layer, float32 or bfloat16.

        Args:
            linear: The layer.
            gelu: Whether to apply the exact GELU to the result, on its way to memory.

        Raises:
            EnvironmentProblem: They are not on the CPU, or this PyTorch has no such layers.
        """
        super().__init__()
        weight = linear.weight.detach()
        if not is_cpu(weight.device):
            raise EnvironmentProblem(f"weights are on {weight.device}, but only the CPU packs them; leave packing out")
        if not can_pack():
            raise EnvironmentProblem(f"PyTorch {torch.__version__} cannot pack weights here; leave packing out")
        self.dtype, self.in_features, self.out_features = weight.dtype, linear.in_features, linear.out_features
        self.after: tuple[str, list[Any], str] = ("gelu", [], "none") if gelu else ("none", [], "")
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
        self.bias = None if linear.bias is None else linear.bias.detach()

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None) -> PackedLinear:
        """Pack a weight (out, in) and a bias (out,) that are those of no `torch.nn.Linear`; see there."""
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
        linear.weight = nn.Parameter(weight, requires_grad=False)
        linear.register_parameter("bias", None if bias is None else nn.Parameter(bias, requires_grad=False))
        return cls(linear)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out), in the dtype of the weights."""
        found: Tensor = torch.ops.mkldnn._linear_pointwise(x.to(self.dtype), self.packed, self.bias, *self.after)
        return found


def can_pack() -> bool:
    """Whether this PyTorch has the operators of packed weights; they are private, so they may go."""
    has = all(hasattr(torch.ops.mkldnn, name) for name in ("_reorder_linear_weight", "_linear_pointwise"))
    return has and torch.backends.mkldnn.is_available()


_LARGE = 2**29  # multiplications from which on a product in blocks beats MKL, too, with several threads


class _ByOneDnn(TorchFunctionMode):
    """Lets oneDNN make the float32 products of linear layers on the CPU that run in this context, in this thread."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is F.linear and not kwargs and _plain(args[0]) and _plain(args[1]) and args[1].is_contiguous():
            return _by_blocks(*args)
        return func(*args, **kwargs or {})


def _by_blocks(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Map (..., in) to (..., out) by oneDNN, in blocks of rows of one size; what is left or small is for MKL.

    oneDNN keeps half a megabyte for each shape that it meets, and photographs and texts have hundreds; so each layer
    has one.
    """
    count, block = x.shape[:-1].numel(), max(256, 128 * torch.get_num_threads())
    whole = count // block * block
    if not whole or count * weight.numel() < _LARGE:
        return F.linear(x, weight, bias)
    rows, found = x.reshape(count, -1), x.new_empty(count, len(weight))
    for start in range(0, whole, block):
        part = slice(start, start + block)
        found[part] = torch.ops.mkldnn._linear_pointwise(rows[part], weight, bias, "none", [], "")
    if whole < count:
        found[whole:] = F.linear(rows[whole:], weight, bias)
    return found.view(*x.shape[:-1], -1)


def fast_products(device: torch.device) -> AbstractContextManager[Any]:
    """Return the context for passes that train nothing: in it linear layers run by what is fast on the device.

    PyTorch leaves float32 products to MKL, which on other processors than Intel's makes no use of AVX-512 and so
    reaches half of oneDNN's rate. There oneDNN makes the large ones, from the weights as they are; results differ by
    rounding alone. Elsewhere, and where a graph is captured, nothing changes.
    """
    if not is_cpu(device) or torch.is_grad_enabled() or torch.compiler.is_compiling() or not _mkl_is_slow():
        return nullcontext()
    return _ByOneDnn()


@cache
def _mkl_is_slow() -> bool:
    """Whether MKL would multiply, on a processor with AVX-512 that is not Intel's, and oneDNN can instead."""
    wide = torch.backends.cpu.get_cpu_capability() == "AVX512"
    if not (wide and torch.backends.mkl.is_available() and can_pack()) or "Intel" in processor():
        return False
    with torch.inference_mode():
        x, weight, bias = torch.ones(2, 3), torch.eye(3)[:2], torch.ones(2)
        try:
            found = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        except RuntimeError:  # some version takes laid out weights alone
            return False
        return torch.equal(found, F.linear(x, weight, bias))


def _plain(x: Tensor) -> bool:
    """Whether a tensor is one of float32 numbers in memory whose products are not lowered by autocast."""
    lowered = torch.is_autocast_enabled(CPU.type)
    return x.dtype == torch.float32 and x.layout == torch.strided and is_cpu(x.device) and not lowered


def pack_linears(parts: Iterable[nn.Module]) -> None:
    """Put packed layers in the place of all `torch.nn.Linear` below some modules.

    Raises:
        EnvironmentProblem: See `PackedLinear`.
    """
    parts = list(parts)
    for module in _modules(parts):
        _pack_with_gelu(module)
    found = [
        (parent, name, child)
        for parent in _modules(parts)
        for name, child in parent.named_children()
        if type(child) is nn.Linear
    ]
    for parent, name, child in found:
        setattr(parent, name, PackedLinear(child))


def _pack_with_gelu(mlp: nn.Module) -> None:
    """Pack the first layer of timm's MLPs together with the exact GELU behind it; leave other modules alone."""
    first, activation = getattr(mlp, "fc1", None), getattr(mlp, "act", None)
    exact = type(activation).__name__ == "GELU" and getattr(activation, "approximate", "none") == "none"
    if type(first) is nn.Linear and exact:  # torch has a module of that name, and timm
        mlp.fc1, mlp.act = PackedLinear(first, gelu=True), nn.Identity()


def lower_products(parts: Iterable[nn.Module], dtype: torch.dtype) -> None:
    """Keep the weights of linear layers, convolutions and attention in another dtype; those of norms stay.

    It is for modules that run under autocast with this dtype, which would convert them anew at every call.
    """
    for module in _modules(parts):
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d | nn.MultiheadAttention):
            for weight in module.parameters(recurse=False):
                weight.data = weight.data.to(dtype)


def _modules(parts: Iterable[nn.Module]) -> Iterator[nn.Module]:
    """Yield modules and all below them, each once."""
    yield from nn.ModuleList(parts).modules()
