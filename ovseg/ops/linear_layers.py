"""Linear layers for inference alone: weights in lower precision, and weights that oneDNN has laid out once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ovseg.errors import EnvironmentProblem
from ovseg.system.device import is_cpu


class PackedLinear(nn.Module):
    """A linear layer on the CPU whose weight lies as oneDNN multiplies it.

    PyTorch leaves float32 products to MKL, which reaches half of oneDNN's rate on AMD's processors, and lays bfloat16
    weights out anew at every call. Both go away when the weight is laid out once. Only for inference: the weight can
    neither be trained nor saved.
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
