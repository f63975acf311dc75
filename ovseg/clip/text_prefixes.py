"""Causal text towers over the tree of prefixes: what texts begin with alike is computed once, and padding never.

A token of a causal tower sees only those before it. So the state of a token is that of its prefix, whatever follows,
and all prompts of a template share their first tokens for all words. Linear layers run on the nodes of the tree; only
attention, a small part of the work, runs on the paths from its root to its leaves. Rows differ from those of the whole
context by rounding alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovseg.clip.open_clip_vit import OpenClipBlock, check_block
from ovseg.errors import ConfigError, EnvironmentProblem

TOKENS_PER_PASS = 8192  # of the paths of a pass, which is what its attention holds at once
_NOTHING = -1  # in the place of tokens that are not read


class Tree(NamedTuple):
    """Paths of a pass and the nodes they are made of.

    Attributes:
        nodes: Row and place (M, 2) of a path on which each node lies, in the order of their numbers.
        paths: Numbers (P, L) of the nodes of each path; behind its end that of any node.
    """

    nodes: Tensor
    paths: Tensor


def tree_of(sequences: Tensor) -> Tree:
    """Find what sequences (P, L), sorted as `sort` sorts them, share from their start; -1 stands behind their ends."""
    before = sequences.roll(1, 0)
    before[0] = _NOTHING
    shared = (sequences == before).long().cumprod(1).bool()
    fresh = ~shared & (sequences != _NOTHING)
    numbers = fresh.flatten().cumsum(0).view_as(fresh) - 1
    # What a path shares with the one before it, that one has from the last path on which the node was new.
    paths = torch.where(fresh, numbers, -1).cummax(0).values.clamp_min(0)
    return Tree(fresh.nonzero(), paths)


def sort(sequences: Tensor) -> Tensor:
    """Return the order in which sequences (P, L) that begin alike follow each other."""
    rows = sequences.tolist()
    return torch.tensor(sorted(range(len(rows)), key=rows.__getitem__), dtype=torch.long)


class CausalText:
    """The text tower of an open_clip model whose tokens see only those before them; `of` builds one.

    Args:
        tower: What holds the parts of the text tower.
        pool: ``argmax``, ``eos``, or ``last`` for a token of its own behind all others (CoCa).
        eos: With ``eos``, the number of the token that ends a text.
    """

    def __init__(self, tower: Any, pool: str, eos: int | None) -> None:
        self.tower, self.pool, self.eos = tower, pool, eos
        self.blocks: Sequence[Any] = [OpenClipBlock(module) for module in tower.transformer.resblocks]

    @classmethod
    def of(cls, model: Any) -> CausalText | None:
        """Adapt the text tower of a model; None where it is of another kind, whose texts need the whole context."""
        whole = not hasattr(model, "text")  # open_clip's first layout has the parts in the model itself
        tower = model if whole else model.text
        if not isinstance(getattr(tower, "attn_mask", None), Tensor) or not hasattr(tower, "transformer"):
            return None
        pool = getattr(tower, "text_pool_type" if whole else "pool_type", "argmax")
        eos = getattr(tower, "text_eos_id" if whole else "eos_id", None)
        if getattr(tower, "cls_emb", None) is not None:
            pool = "last"
        elif pool not in ("argmax", "eos"):
            return None
        try:
            for module in tower.transformer.resblocks:
                check_block(module)
        except (AttributeError, ConfigError, EnvironmentProblem):
            return None
        return cls(tower, pool, eos)

    @property
    def own_token(self) -> bool:
        """Whether a token of its own, behind all others, becomes the embedding."""
        return self.pool == "last"

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the products of the blocks."""
        found: torch.dtype = self.blocks[0].attn.out_proj.weight.dtype
        return found

    def passes(self, tokens: Tensor) -> Iterator[tuple[Tensor, Callable[[], Tensor]]]:
        """Plan passes of tokens (N, n) int64 on the CPU: places (P,) among them, and what gives their rows (P, D)."""
        lengths = self._lengths(tokens)
        read = tokens.masked_fill(torch.arange(tokens.shape[1]) >= lengths[:, None], _NOTHING)
        for part in _cut(sort(read), lengths):
            longest = int(lengths[part].max())
            yield part, partial(self._embed, read[part, :longest], tokens[part])

    def _lengths(self, tokens: Tensor) -> Tensor:
        """Return how many tokens (N,) of each text what becomes its embedding sees."""
        if self.own_token:
            seen = self._seen(tokens)[:, : tokens.shape[1]]
            places = torch.arange(1, tokens.shape[1] + 1)
            return (seen * places).amax(1)
        if self.pool == "eos":
            return tokens.eq(self.eos or 0).int().argmax(1) + 1
        return tokens.argmax(1) + 1

    def _seen(self, tokens: Tensor) -> Tensor:
        """Return which keys (N, n + 1) CoCa's tokens (N, n) are, its own token last.

        Released weights were trained with a mask that is shifted by one, which open_clip keeps for them.
        """
        valid, one = tokens != self.tower.pad_id, torch.ones_like(tokens[:, :1], dtype=torch.bool)
        return torch.cat([valid, one] if getattr(self.tower, "correct_cls_mask", False) else [one, valid], 1)

    def _embed(self, sequences: Tensor, tokens: Tensor) -> Tensor:
        """Embed one pass of sorted sequences (P, L), of texts with these tokens (P, n): (P, D)."""
        tree = tree_of(sequences)
        device = self.tower.positional_embedding.device
        sequences, tokens = sequences.to(device), tokens.to(device)
        rows, places = tree.nodes.to(device).unbind(1)
        hidden = self.tower.token_embedding(sequences[rows, places]) + self.tower.positional_embedding[places]
        paths, mask = tree.paths.to(device), None
        ends = paths.gather(1, (sequences != _NOTHING).sum(1, keepdim=True) - 1)[:, 0]
        if self.own_token:
            own = self.tower.cls_emb + self.tower.positional_embedding[-1]
            ends = torch.arange(len(sequences), device=device) + len(hidden)
            hidden = torch.cat([hidden, own.expand(len(sequences), -1)])
            # It stands behind all others on each path; those behind the end of a shorter one are not seen by it.
            paths = torch.cat([paths, ends[:, None]], 1)
            rows = torch.cat([rows, torch.arange(len(sequences), device=device)])
            places = torch.cat([places, places.new_full((len(sequences),), paths.shape[1] - 1)])
            seen = self._seen(tokens)
            keys = torch.cat([seen[:, : sequences.shape[1]] & (sequences != _NOTHING), seen[:, -1:]], 1)
            causal = torch.ones(paths.shape[1], paths.shape[1], dtype=torch.bool, device=device).tril()
            mask = (causal & keys[:, None])[:, None]
        hidden = hidden.to(self.dtype)[None]
        for block in self.blocks:
            hidden = self._block(block, hidden, paths, (rows, places), mask)
        return self._project(self.tower.ln_final(hidden[0, ends]))

    def _block(
        self, block: Any, hidden: Tensor, paths: Tensor, nodes: tuple[Tensor, Tensor], mask: Tensor | None
    ) -> Tensor:
        """Run a block on nodes (1, M, C), whose attention looks along paths (P, L)."""
        query, key, value = (part[0][:, paths].transpose(0, 1) for part in block.qkv(hidden))
        heads = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None)
        hidden = hidden + block.project(heads.transpose(1, 2)[nodes].transpose(0, 1)[None])
        return hidden + block.feed_forward(hidden)

    def _project(self, rows: Tensor) -> Tensor:
        projection = self.tower.text_projection
        if projection is None:
            return rows
        found: Tensor = projection(rows) if isinstance(projection, nn.Linear) else rows @ projection
        return found


def _cut(order: Tensor, lengths: Tensor) -> Iterator[Tensor]:
    """Cut an order of texts into passes of about as many tokens."""
    start = longest = 0
    for end, length in enumerate(lengths[order].tolist()):
        longest = max(longest, length)
        if end > start and (end - start + 1) * longest > TOKENS_PER_PASS:
            yield order[start:end]
            start, longest = end, length
    yield order[start:]
