"""The head of MaskFormer with embeddings for open words (Cheng et al., NeurIPS 2021, arXiv 2107.06278; OVSeg)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovseg.proposals.masked_decoder import Proposals
from ovseg.proposals.sine_position import sine_position

GROUPS = 32


class NormedConv(nn.Conv2d):
    """A convolution without bias and a group norm behind it."""

    def __init__(self, channels: int, dim: int, kernel: int) -> None:
        """Build one from ``channels`` to ``dim``, a multiple of 32, that keeps the size."""
        super().__init__(channels, dim, kernel, padding=kernel // 2, bias=False)
        self.norm = nn.GroupNorm(GROUPS, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, h, w) to (B, dim, h, w)."""
        return self.norm(super().forward(x))


class Perceptron(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, *widths: int) -> None:
        """Build layers from each width to the next."""
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., first width) to (..., last width)."""
        for layer in self.layers[:-1]:
            x = layer(x).relu()
        return self.layers[-1](x)


class EncoderLayer(nn.Module):
    """DETR's: self-attention with positions, then feed-forward; a norm behind each residual."""

    def __init__(self, dim: int, heads: int, ffn: int, dropout: float) -> None:
        """Build it; ``ffn`` is the width of the feed-forward network."""
        super().__init__()
        self.self_attn = nn.MultiheadAttention(dim, heads, dropout, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(dim, ffn), nn.Linear(ffn, dim)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, place: Tensor) -> Tensor:
        """Update tokens (B, N, C) with positions (N, C)."""
        keys = x + place
        x = self.norm1(x + self.dropout(self.self_attn(keys, keys, x, need_weights=False)[0]))
        return self.norm2(x + self.dropout(self.linear2(self.dropout(self.linear1(x).relu()))))


class DecoderLayer(nn.Module):
    """DETR's: queries look at one another, then at the image."""

    def __init__(self, dim: int, heads: int, ffn: int, dropout: float) -> None:
        """Build it; ``ffn`` is the width of the feed-forward network."""
        super().__init__()
        self.self_attn = nn.MultiheadAttention(dim, heads, dropout, batch_first=True)
        self.multihead_attn = nn.MultiheadAttention(dim, heads, dropout, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(dim, ffn), nn.Linear(ffn, dim)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Update queries.

        Args:
            x: (B, Q, C).
            query: Their positions (Q, C).
            key: The image (B, N, C) with its positions.
            value: The same without them.
        """
        own = x + query
        x = self.norm1(x + self.dropout(self.self_attn(own, own, x, need_weights=False)[0]))
        x = self.norm2(x + self.dropout(self.multihead_attn(x + query, key, value, need_weights=False)[0]))
        return self.norm3(x + self.dropout(self.linear2(self.dropout(self.linear1(x).relu()))))


class FpnDecoder(nn.Module):
    """A feature pyramid, with a transformer encoder on its smallest level where it has encoder layers."""

    def __init__(
        self, channels: Mapping[str, int], dim: int, mask_dim: int, layers: int, heads: int, ffn: int, dropout: float
    ) -> None:
        """Build it for levels of so many channels, the largest first; ``layers`` are those of the encoder."""
        super().__init__()
        self.names, widths = list(channels), list(channels.values())
        for index, width in enumerate(widths[:-1], start=1):
            self.add_module(f"adapter_{index}", NormedConv(width, dim, 1))
            self.add_module(f"layer_{index}", NormedConv(dim, dim, 3))
        self.add_module(f"layer_{len(widths)}", NormedConv(dim if layers else widths[-1], dim, 3))
        self.mask_features = nn.Conv2d(dim, mask_dim, 3, padding=1)
        self.input_proj = nn.Conv2d(widths[-1], dim, 1) if layers else None
        self.encoder = nn.ModuleList(EncoderLayer(dim, heads, ffn, dropout) for _ in range(layers))

    def forward(self, levels: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return mask features (B, M, H, W) at the size of the largest level, and what queries look at (B, C, h, w)."""
        smallest = levels[self.names[-1]]
        if self.input_proj is not None:
            smallest = self.input_proj(smallest)
            place, grid = _places(smallest), smallest.shape[2:]
            tokens = smallest.flatten(2).mT
            for layer in self.encoder:
                tokens = layer(tokens, place)
            smallest = tokens.mT.unflatten(2, grid)
        found = self.get_submodule(f"layer_{len(self.names)}")(smallest).relu()
        for index in range(len(self.names) - 1, 0, -1):
            beside = self.get_submodule(f"adapter_{index}")(levels[self.names[index - 1]])
            found = beside + F.interpolate(found, size=beside.shape[2:], mode="nearest")
            found = self.get_submodule(f"layer_{index}")(found).relu()
        return self.mask_features(found), smallest


class QueryDecoder(nn.Module):
    """Queries that look at an image, layer after layer, and tell masks and embeddings."""

    def __init__(
        self,
        channels: int,
        embed_dim: int,
        mask_dim: int,
        dim: int,
        queries: int,
        layers: int,
        heads: int,
        ffn: int,
        embed_hidden: int,
        embed_layers: int,
        dropout: float,
    ) -> None:
        """Build it for an image of so many channels; options are those of `MaskFormerHead`."""
        super().__init__()
        self.query_embed = nn.Embedding(queries, dim)
        self.input_proj = nn.Conv2d(channels, dim, 1) if channels != dim else nn.Identity()
        self.layers = nn.ModuleList(DecoderLayer(dim, heads, ffn, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        self.class_embed = Perceptron(dim, *[embed_hidden] * (embed_layers - 1), embed_dim)
        self.mask_embed = Perceptron(dim, dim, dim, mask_dim)

    def forward(self, image: Tensor, mask_features: Tensor, every: bool = False) -> list[Proposals]:
        """Return what the last layer says, or with ``every`` all of them, the last one last."""
        image = self.input_proj(image)
        value = image.flatten(2).mT
        key, query = value + _places(image), self.query_embed.weight
        x, found = torch.zeros_like(query).expand(len(image), -1, -1), []
        for index, layer in enumerate(self.layers, start=1):
            x = layer(x, query, key, value)
            if every or index == len(self.layers):
                told = self.norm(x)
                masks = torch.einsum("bqc,bchw->bqhw", self.mask_embed(told), mask_features)
                found.append(Proposals(self.class_embed(told), masks))
        return found


class MaskFormerHead(nn.Module):
    """Masks and embeddings of queries from the levels of a backbone; it knows no words."""

    def __init__(
        self,
        channels: Mapping[str, int],
        embed_dim: int,
        *,
        dim: int = 256,
        mask_dim: int = 256,
        query_dim: int = 256,
        queries: int = 100,
        heads: int = 8,
        ffn: int = 2048,
        encoder_layers: int = 0,
        decoder_layers: int = 6,
        embed_hidden: int = 1024,
        embed_layers: int = 2,
        dropout: float = 0.1,
    ) -> None:
        """Build it.

        Args:
            channels: Of the levels of the backbone, the largest first.
            embed_dim: Length of text embeddings.
            dim: Channels of the pixel decoder, a multiple of 32.
            mask_dim: Length of what masks are made of.
            query_dim: Length of queries, a multiple of 4 and of ``heads``.
            queries: Masks of an image.
            heads: Heads of all attention.
            ffn: Width of the feed-forward networks.
            encoder_layers: Of the pixel decoder; 0 is a plain feature pyramid, as in what OVSeg released.
            decoder_layers: Of the queries.
            embed_hidden: Width between the layers that make embeddings.
            embed_layers: How many there are.
            dropout: In training.
        """
        super().__init__()
        self.pixel_decoder = FpnDecoder(channels, dim, mask_dim, encoder_layers, heads, ffn, dropout)
        smallest = dim if encoder_layers else list(channels.values())[-1]
        self.predictor = QueryDecoder(
            smallest,
            embed_dim,
            mask_dim,
            query_dim,
            queries,
            decoder_layers,
            heads,
            ffn,
            embed_hidden,
            embed_layers,
            dropout,
        )

    def forward(self, levels: Mapping[str, Tensor], every: bool = False) -> list[Proposals]:
        """Return what the last layer says, or with ``every`` all of them, the last one last."""
        mask_features, image = self.pixel_decoder(levels)
        return self.predictor(image, mask_features, every)


def _places(image: Tensor) -> Tensor:
    """Return sine positions (h * w, C) for an image (B, C, h, w)."""
    grid = (image.shape[2], image.shape[3])
    return sine_position(grid, image.shape[1], image.device).flatten(1).mT.to(image.dtype)
