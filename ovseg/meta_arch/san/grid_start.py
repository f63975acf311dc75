"""A start that lets the queries of a side adapter find masks within hundreds of steps."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor, nn


class Adapter(Protocol):
    """What starts on a grid: the position embeddings and blocks of a side adapter."""

    pos_embed: nn.Parameter
    query_pos_embed: nn.Parameter
    blocks: nn.ModuleList

    @property
    def table_grid(self) -> tuple[int, int]:
        """Rows and columns of the position embeddings."""


@torch.no_grad()
def start_on_grid(adapter: Adapter, scale: float) -> None:
    """Let each query look at a place of its own from the first step, and every token at those that are like it.

    From the small random embeddings of the original all queries start alike, and a short training is over before they
    have found places of their own. Here places are waves, and a query starts with those of one point of a regular grid.
    Attention's keys start equal to its queries, so that a token's score is highest for what resembles it; that trained
    transformers come to look so is an observation of Trockman and Kolter, Mimetic Initialization of Self-Attention
    Layers, ICML 2023, arXiv 2305.09828. Only where parameters start changes, not what is computed.

    Args:
        adapter: Untrained; its position embeddings and the projections to queries and keys are overwritten.
        scale: Amplitude of the waves.
    """
    width, queries = adapter.pos_embed.shape[-1], adapter.query_pos_embed.shape[1]
    adapter.pos_embed.copy_(scale * _waves(_grid(*adapter.table_grid), width))
    columns = math.ceil(math.sqrt(queries))
    places = _grid(math.ceil(queries / columns), columns)
    adapter.query_pos_embed.copy_(scale * _waves(places[:queries], width))
    for block in adapter.blocks:
        query, key, _ = block.get_parameter("qkv.weight").chunk(3)
        key.copy_(torch.nn.init.normal_(query, std=width**-0.5))


def _grid(rows: int, columns: int) -> Tensor:
    """Return the centres (rows * columns, 2) of the cells of a grid, row and column in 0..1."""
    axes = [(torch.arange(count) + 0.5) / count for count in (rows, columns)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, 1)


def _waves(places: Tensor, width: int) -> Tensor:
    """Return sines and cosines (P, width) of places (P, 2): a quarter of a period over the image up to two periods.

    Unlike `sine_position` no wave is so short or so long that neighbours, or all places, look the same.
    """
    angles = places[:, :, None] * torch.linspace(0.5, 4, -(-width // 4)) * math.pi
    return torch.stack([angles.sin(), angles.cos()], 2).flatten(1)[:, :width]
