"""Aggregation over classes: at every place the maps of all classes look at each other."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovseg.aggregation.checks import all_at_least, check_heads
from ovseg.aggregation.parts import few_at_a_time, in_full_precision, parts_of, shared_linear
from ovseg.errors import one_of
from ovseg.ops.any_size import length

ATTENTION = ("linear", "full")
_TINY = 1e-6
_VALUES = 2**21
"""Values of maps that are taken together, where only a few classes are: sums over classes are as large as many maps."""


class ClassAggregation(nn.Module):
    """A transformer layer over classes, at every place by itself, whose result is added to what came in.

    Cho et al., CAT-Seg, CVPR 2024, arXiv 2303.11797; github.com/cvlab-kaist/CAT-Seg. Linear attention is that of
    Katharopoulos et al., ICML 2020. It has no projection behind it. The original fills lists of fewer classes than
    ``fill`` up with a learnt row; all such rows are alike at all places, so here they are one that counts so often.
    """

    def __init__(
        self,
        dim: int,
        guidance: int,
        heads: int,
        pooling: tuple[int, int] = (1, 1),
        train_pooling: tuple[int, int] = (1, 1),
        attention: str = "linear",
        fill: int = 0,
        ratio: int = 4,
    ) -> None:
        """Build it.

        Args:
            dim: Channels of the maps, a multiple of ``heads``.
            guidance: Channels of the text guidance; 0 for none.
            heads: Of the attention.
            pooling: Places along rows and columns that are averaged before; the result is resized back.
            train_pooling: The same in training.
            attention: ``linear``, or ``full`` for a softmax.
            fill: Lists of fewer classes are filled up to so many; 0 for never.
            ratio: Of the hidden layer to ``dim``.

        Raises:
            ConfigError: Attention is another word, or numbers cannot be used.
        """
        super().__init__()
        check_heads(dim, heads)
        all_at_least(1, pooling=pooling, train_pooling=train_pooling)
        all_at_least(0, fill=fill, text_guidance=guidance)
        self.heads, self.fill, self.poolings = heads, fill, (pooling, train_pooling)
        self.kind = one_of("attention", attention, ATTENTION)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.q, self.k = (nn.Linear(dim + guidance, dim) for _ in range(2))
        self.v = nn.Linear(dim, dim)
        self.fc1, self.fc2 = nn.Linear(dim, ratio * dim), nn.Linear(ratio * dim, dim)
        self.filling = nn.Parameter(torch.zeros(1, 1, dim)) if fill else None
        self.filling_guidance = nn.Parameter(torch.zeros(1, 1, guidance)) if fill and guidance else None

    @property
    def pooling(self) -> tuple[int, int]:
        """Places along rows and columns that are taken together in the mode that it is in."""
        return self.poolings[self.training]

    def forward(self, x: Tensor, grid: tuple[int, int], guidance: Tensor | None, step: int = 0) -> Tensor:
        """Run on maps (T, h * w, C) of a grid (h, w), with the guidance (T, G) of each class.

        ``step`` is as in `few_at_a_time`.
        """
        alone = self.pooling == (1, 1)
        pooled = x if alone else self._pool(x, grid)
        step = step and max(step, _VALUES // (pooled.shape[1] * pooled.shape[2]))
        texts = None if guidance is None else guidance[:, None]
        if self.kind == "full":
            return x + self._back(self._grown(pooled, self.full_attention(pooled, texts)), grid)
        sums = self.sums(pooled, texts, step)

        def update(part: Tensor, text: Tensor | None) -> Tensor:
            own = self._grown(part, self.linear_attention(part, text, *sums))
            return part + own if alone else own

        found = few_at_a_time(update, step, pooled, texts)
        return found if alone else x + self._back(found, grid)

    def sums(self, x: Tensor, guidance: Tensor | None, step: int = 0) -> tuple[Tensor, Tensor]:
        """Return what linear attention keeps of all classes at a place: (n, heads, d, d), and of keys (n, heads, d).

        Args:
            x: (T, n, C).
            guidance: (T, 1, G).
            step: As in `few_at_a_time`.
        """
        parts = parts_of(x, step)
        texts = [None] * len(parts) if guidance is None else parts_of(guidance, step)
        product, total = self._sums(parts[0], texts[0])
        for own in zip(parts[1:], texts[1:], strict=True):
            product, total = (kept + more for kept, more in zip((product, total), self._sums(*own), strict=True))
        missing = self._missing(x.shape[0])
        if missing is not None and self.filling is not None:
            more = self._sums(self.filling, self.filling_guidance)
            product, total = product + missing.to(product) * more[0], total + missing.to(total) * more[1]
        return product, total

    def _missing(self, count: int) -> Tensor | None:
        """Return how often the learnt row stands in, () float64, where there are so many classes; None for never.

        The number may be a symbol of `torch.export`, of which that is not known.
        """
        if self.filling is None or (isinstance(count, int) and count >= self.fill):
            return None
        return (self.fill - length(count)).clamp(min=0)

    def _sums(self, x: Tensor, guidance: Tensor | None) -> tuple[Tensor, Tensor]:
        key, value = self._heads(self.norm1(x), (self.k, self.v), guidance)
        with in_full_precision(x.device):  # sums over hundreds of classes are beyond float16
            key = F.elu(key.float()) + 1
            return key.mT @ value.float(), key.sum(2)

    def linear_attention(self, x: Tensor, guidance: Tensor | None, product: Tensor, total: Tensor) -> Tensor:
        """Return what classes (t, n, C), with guidance (t, 1, G), take from all: (t, n, C); for the rest see `sums`."""
        (query,) = self._heads(self.norm1(x), (self.q,), guidance)
        with in_full_precision(x.device):
            query = F.elu(query.float()) + 1
            found = (query @ product / (query @ total[..., None] + _TINY)).to(x)
        return found.permute(2, 0, 1, 3).flatten(2)

    def full_attention(self, x: Tensor, guidance: Tensor | None) -> Tensor:
        """Return what classes (T, n, C), with guidance (T, 1, G), take from all by a softmax: (T, n, C)."""
        query, key, value = self._heads(self.norm1(x), (self.q, self.k, self.v), guidance)
        missing, bias = self._missing(x.shape[0]), None
        if missing is not None and self.filling is not None:
            more = self._heads(self.norm1(self.filling), (self.k, self.v), self.filling_guidance)
            grown = zip((key, value), more, strict=True)
            key, value = (torch.cat([own, row.expand(len(own), -1, -1, -1)], 2) for own, row in grown)
            bias = torch.cat([torch.zeros(x.shape[0], dtype=missing.dtype), missing.log()[None]]).to(key)
        found = F.scaled_dot_product_attention(query, key, value, None if bias is None else bias.expand(x.shape[0], -1))
        return found.permute(2, 0, 1, 3).flatten(2)

    def _heads(self, x: Tensor, layers: tuple[nn.Linear, ...], guidance: Tensor | None) -> Tensor:
        """Return what layers give of x (t, n, C) and its guidance (t, 1, G): (layers, n, heads, t, d)."""
        found = shared_linear(x, layers, guidance)
        return found.unflatten(-1, (len(layers), self.heads, -1)).permute(2, 1, 3, 0, 4)

    def _grown(self, x: Tensor, taken: Tensor) -> Tensor:
        x = x + taken
        return x + self.fc2(F.relu(self.fc1(self.norm2(x))))

    def _pool(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        return F.avg_pool2d(x.mT.unflatten(2, grid), self.pooling).flatten(2).mT

    def _back(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Resize pooled maps (T, n, C) back to a grid: (T, h * w, C)."""
        small = tuple(side // step for side, step in zip(grid, self.pooling, strict=True))
        if small == tuple(grid):
            return x
        maps = F.interpolate(x.mT.unflatten(2, small), grid, mode="bilinear", align_corners=True)
        return maps.flatten(2).mT
