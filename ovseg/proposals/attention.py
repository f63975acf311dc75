"""Multi-head attention that blocks some keys, and the small network that heads end in."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Attention of queries to keys, with the parameters of `torch.nn.MultiheadAttention`, batch first.

    Unlike there, one mask serves all heads without being copied for each.
    """

    def __init__(self, dim: int, heads: int) -> None:
        """Build it with Xavier weights and zero biases.

        Args:
            dim: Length of queries, keys and values; a multiple of ``heads``.
            heads: Number of heads.
        """
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(3 * dim, dim)))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Attend.

        Args:
            query: (B, M, C).
            key: (B, N, C).
            value: (B, N, C).
            allowed: Bool (B, M, N), True where a query may look; every query needs one such key.

        Returns:
            (B, M, C).
        """
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        heads = [
            F.linear(x, weight, bias).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for x, weight, bias in zip((query, key, value), weights, biases, strict=True)
        ]
        mask = None if allowed is None else allowed[:, None]
        found = F.scaled_dot_product_attention(heads[0], heads[1], heads[2], attn_mask=mask)
        return self.out_proj(found.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Three linear layers with ReLU between them."""

    def __init__(self, dim: int, out: int) -> None:
        """Build it for inputs of length ``dim`` and outputs of length ``out``."""
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, out)])

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., dim) to (..., out)."""
        for layer in self.layers[:-1]:
            x = layer(x).relu_()
        return self.layers[-1](x)
