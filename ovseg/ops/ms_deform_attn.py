"""Multi-scale deformable attention (Zhu et al., Deformable DETR, ICLR 2021), with its kernels or in plain PyTorch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg.errors import InputError
from ovseg.ops.library import define, load_kernels
from ovseg.system.device import is_cpu

QUERIES = 4096
"""So many queries are sampled at a time in plain PyTorch."""


def ms_deform_attn(value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """Gather values at a few places of every level and add them up by weight.

    Values are sampled bilinearly; pixel centres lie at (i + 0.5) / n, and outside of a level there is zero. Half
    precision is added up in single. All three tensors may need gradients; those of the CPU's kernel do not depend on
    the number of threads.

    Args:
        value: (B, N, heads, d), the levels one behind the other, each row by row; N is the sum of their h * w.
        shapes: Rows and columns (h, w) of each level.
        locations: (B, M, heads, levels, points, 2) as (x, y), where 0..1 spans a level; single precision even where
            the values are half, which would be off by a share of a pixel.
        weights: (B, M, heads, levels, points).

    Returns:
        (B, M, heads * d), head by head, in the dtype of the values.

    Raises:
        InputError: The tensors do not fit each other, or are no floating point numbers of one device.
    """
    _check(value, shapes, locations, weights)
    load_kernels()
    found: Tensor = torch.ops.ovseg.ms_deform_attn(value, list(chain.from_iterable(shapes)), locations, weights)
    return found


def _check(value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> None:
    tensors = (value, locations, weights)
    if (value.ndim, locations.ndim, weights.ndim) != (4, 6, 5):
        raise InputError(
            f"deformable attention got values {_size(value)}, locations {_size(locations)} and weights "
            f"{_size(weights)}; expected (B, N, heads, d), (B, M, heads, levels, points, 2) and the same without the 2"
        )
    if not all(x.is_floating_point() for x in tensors) or len({x.device for x in tensors}) > 1:
        kinds = ", ".join(f"{x.dtype} on {x.device}" for x in tensors)
        raise InputError(f"deformable attention got {kinds}; expected floating point numbers on one device")
    batch, tokens, heads, _ = value.shape
    expected = (batch, locations.shape[1], heads, len(shapes), locations.shape[4])
    if tuple(weights.shape) != expected or tuple(locations.shape) != (*expected, 2):
        raise InputError(
            f"deformable attention got locations {_size(locations)} and weights {_size(weights)} for values "
            f"{_size(value)} of {len(shapes)} levels; expected {(*expected, 2)} and {expected}"
        )
    if sum(h * w for h, w in shapes) != tokens or any(min(shape) < 1 for shape in shapes):
        raise InputError(f"deformable attention got {tokens} values for levels of {list(shapes)}; expected one a pixel")


def _size(x: Tensor) -> tuple[int, ...]:
    return tuple(x.shape)


def sample_grids(value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """Sample map by map with `grid_sample`; arguments as `ms_deform_attn`."""
    batch, _, heads, dim = value.shape
    total = value.new_zeros(batch * heads, dim, locations.shape[1])
    for maps, grid, shares in _levels(value, shapes, locations, weights):
        found = F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        total = total + (found * shares).sum(-1)
    return total.view(batch, heads * dim, locations.shape[1]).mT.contiguous()


def _levels(
    value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Give of each level the maps (B*heads, d, h, w), the grid (B*heads, M, points, 2) and weights that fit it."""
    grids = (2 * locations - 1).permute(3, 0, 2, 1, 4, 5).flatten(1, 2)
    shares = weights.permute(3, 0, 2, 1, 4).flatten(1, 2)[:, :, None]
    parts = value.split([h * w for h, w in shapes], dim=1)
    for part, shape, grid, share in zip(parts, shapes, grids, shares, strict=True):
        yield part.permute(0, 2, 3, 1).unflatten(3, shape).flatten(0, 1), grid, share


def sample_bags(value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """Sample as one weighted sum of rows for each query and head; arguments as `ms_deform_attn`.

    Without a kernel, the CPU adds up whole rows several times faster than it interpolates map by map. A frame of zeros
    around every level stands for what lies outside of it. Queries come some at a time, for each has many rows.
    """
    levels = zip(value.split([h * w for h, w in shapes], dim=1), shapes, strict=True)
    framed = [F.pad(own.flatten(2).unflatten(1, shape), (0, 0, 1, 1, 1, 1)).flatten(1, 2) for own, shape in levels]
    table = torch.cat(framed, 1)
    starts = torch.tensor([0, *(part.shape[1] for part in framed)], device=value.device).cumsum(0)[:-1, None]
    parts = zip(locations.split(QUERIES, 1), weights.split(QUERIES, 1), strict=True)
    return torch.cat([_bags(table, value.shape[3], shapes, starts, *part) for part in parts], 1)


def _bags(
    table: Tensor, dim: int, shapes: Sequence[tuple[int, int]], starts: Tensor, locations: Tensor, weights: Tensor
) -> Tensor:
    """Sum up rows of a table (B, N', heads * d), whose levels begin at ``starts`` (levels, 1), for some queries."""
    batch, count, heads = locations.shape[:3]
    device = table.device
    sizes = torch.tensor([(w, h) for h, w in shapes], device=device)[:, None]  # of each level, without the frame
    places = (locations * sizes + 0.5).clamp(min=0).minimum(sizes + 1.0)  # in pixels of the framed level
    corner = places.detach().floor().minimum(sizes)
    x, y = (places - corner).unbind(-1)
    left, top = corner.long().unbind(-1)
    wide = sizes[..., 0] + 2
    image, head = torch.arange(batch, device=device), torch.arange(heads, device=device)
    first = top * wide + left + starts + image.view(-1, 1, 1, 1, 1) * table.shape[1]
    below, right = wide * heads, torch.full_like(wide, heads)  # one step in the table, whose rows are pixel by head
    steps = torch.stack([torch.zeros_like(wide), right, below, below + right], -1)
    rows = (first * heads + head.view(-1, 1, 1))[..., None] + steps
    lower = weights * y
    upper = weights - lower
    lower_right, upper_right = lower * x, upper * x
    shares = torch.stack([upper - upper_right, upper_right, lower - lower_right, lower_right], -1)
    found = F.embedding_bag(
        rows.flatten(3).flatten(0, 2),
        table.view(-1, dim),
        per_sample_weights=shares.flatten(3).flatten(0, 2),
        mode="sum",
    )
    return found.view(batch, count, heads * dim)


def pixel_centres(shapes: Sequence[tuple[int, int]], device: torch.device | None = None) -> Tensor:
    """Return the centres (N, 2) of all pixels of all levels as (x, y) in 0..1, float32, in the order of the values."""
    found = []
    for height, width in shapes:
        rows = (torch.arange(height, device=device) + 0.5) / height
        columns = (torch.arange(width, device=device) + 0.5) / width
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        found.append(torch.stack([x, y], -1).flatten(0, 1))
    return torch.cat(found)


def _plain(value: Tensor, sizes: Sequence[int], locations: Tensor, weights: Tensor) -> Tensor:
    sample = sample_bags if is_cpu(value.device) else sample_grids
    dtype = _working_dtype(value)
    found = sample(value.to(dtype), _pairs(sizes), locations.to(dtype), weights.to(dtype))
    return found.to(value.dtype)


def _plain_backward(
    grad: Tensor, value: Tensor, sizes: Sequence[int], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    batch, _, heads, dim = value.shape
    dtype = _working_dtype(value)
    own = grad.to(dtype).unflatten(2, (heads, dim)).permute(0, 2, 3, 1).flatten(0, 1)[..., None]  # (B*heads, d, M, 1)
    to_values, to_grids, to_shares = [], [], []
    for maps, grid, shares in _levels(value.to(dtype), _pairs(sizes), locations.to(dtype), weights.to(dtype)):
        found = F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        to_shares.append((found * own).sum(1))
        # An operator has no tape: 0 and 0 stand for bilinear and for zeros outside.
        to_maps, to_grid = torch.ops.aten.grid_sampler_2d_backward(own * shares, maps, grid, 0, 0, False, (True, True))
        to_values.append(to_maps.flatten(2))
        to_grids.append(2 * to_grid)

    def gathered(parts: list[Tensor], like: Tensor) -> Tensor:
        levels = torch.stack(parts, 2).unflatten(0, (batch, heads)).transpose(1, 2)
        return levels.to(like.dtype).contiguous()

    to_value = torch.cat(to_values, 2).unflatten(0, (batch, heads)).permute(0, 3, 1, 2)
    return to_value.to(value.dtype).contiguous(), gathered(to_grids, locations), gathered(to_shares, weights)


def _working_dtype(value: Tensor) -> torch.dtype:
    return torch.promote_types(value.dtype, torch.float32)


def _pairs(sizes: Sequence[int]) -> list[tuple[int, int]]:
    return list(zip(sizes[::2], sizes[1::2], strict=True))


def _shape(value: Tensor, sizes: Sequence[int], locations: Tensor, weights: Tensor) -> Tensor:
    return value.new_empty(value.shape[0], locations.shape[1], value.shape[2] * value.shape[3])


def _shapes_backward(
    grad: Tensor, value: Tensor, sizes: Sequence[int], locations: Tensor, weights: Tensor
) -> tuple[Tensor, ...]:
    return tuple(x.new_empty(x.shape) for x in (value, locations, weights))


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    value, ctx.sizes, locations, weights = inputs
    ctx.save_for_backward(value, locations, weights)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    value, locations, weights = ctx.saved_tensors
    to_value, *rest = torch.ops.ovseg.ms_deform_attn_backward(grad, value, ctx.sizes, locations, weights)
    return to_value, None, *rest


def _backward_twice(ctx: Any, *grads: Tensor) -> None:
    raise NotImplementedError("ms_deform_attn has first derivatives only")


_INPUTS = "Tensor value, SymInt[] sizes, Tensor locations, Tensor weights"
define(f"ms_deform_attn({_INPUTS}) -> Tensor", _plain, _shape)
define(
    f"ms_deform_attn_backward(Tensor grad, {_INPUTS}) -> (Tensor, Tensor, Tensor)", _plain_backward, _shapes_backward
)
torch.library.register_autograd("ovseg::ms_deform_attn", _backward, setup_context=_remember)
torch.library.register_autograd("ovseg::ms_deform_attn_backward", _backward_twice)
