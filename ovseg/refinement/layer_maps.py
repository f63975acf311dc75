"""Score maps of several layers made one, as in CLIPer (github.com/linsun449/cliper.code)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg.clip.features import Context, DenseFeatures
from ovseg.vocabulary.embedder import Queries


def layer_logits(
    joint: Callable[[Tensor, Context], DenseFeatures], dense: DenseFeatures, queries: Queries, scale: float
) -> Tensor:
    """Compare the tokens of all layers with every text and with the mean of the texts that are classes.

    Args:
        joint: Brings tokens to the joint space.
        dense: Of a pass that left ``layers`` in the stash: for each layer tokens (B, N, C).
        queries: T texts.
        scale: Factor between cosines and logits.

    Returns:
        (L, B, T + 1, h, w) float32; the mean comes last.
    """
    rows = queries.rows(dense.cls)
    mean = rows[..., (queries.query_to_class >= 0).to(rows.device), :].mean(-2, keepdim=True)
    texts = F.normalize(torch.cat([rows, mean], dim=-2), dim=-1)
    layers: Sequence[Tensor] = dense.context.stash["layers"]
    return scale * torch.stack([joint(tokens, dense.context).cosines(texts) for tokens in layers])


def layer_probabilities(
    joint: Callable[[Tensor, Context], DenseFeatures], dense: DenseFeatures, queries: Queries, scale: float
) -> Tensor:
    """Return the probability (L, B, T, h, w) of every text in all layers; arguments as `layer_logits`.

    Where windows have been seen beside the whole image, theirs count half. Their logits are first mixed over the whole
    grid by the weights of the patches that share a window.
    """
    maps = layer_logits(joint, dense, queries, scale).softmax(2)
    if "windows" in dense.context.stash:
        windows, seen = dense.context.stash["windows"]
        logits = windows.mean_scores(layer_logits(joint, seen, queries, scale))
        mixed = logits.flatten(3) @ windows.mean_weights(seen.context.stash["weights"])
        maps = (maps + mixed.softmax(2).view_as(maps)) / 2
    return maps[:, :, :-1]


def fuse_maps(maps: Tensor, selected: int, weights: Tensor, threshold: float, mean: bool) -> Tensor:
    """Spread the map of one layer by attention, and add the mean of the maps of all layers.

    Args:
        maps: (L, B, T, h, w), 0 or more.
        selected: The layer whose map is spread.
        weights: (B, h * w, h * w): how much of each patch (row) goes to each other (column).
        threshold: Share of its peak below which the map that is spread is zero, in the mean too.
        mean: Whether the mean is added.

    Returns:
        (B, T, h, w).
    """
    chosen = maps[selected]
    strong = chosen.masked_fill(chosen < threshold * chosen.amax((2, 3), keepdim=True), 0)
    spread = (strong.flatten(2) @ weights).view_as(strong)
    return spread + (maps.sum(0) - chosen + strong) / len(maps) if mean else spread
