"""Score maps of several layers made one, as in CLIPer (github.com/linsun449/cliper.code)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg.clip.features import Context, DenseFeatures, Kept
from ovseg.recalibration.cliper.patch_windows import PatchWindows

if TYPE_CHECKING:
    from ovseg.contract import Words


@dataclass
class Layers(Kept):
    """What CLIPer keeps of a pass.

    Attributes:
        tokens: Of each layer that is compared with texts, what leaves the last block (B, N, C).
        balanced: Attention (B, heads, N, N) of the earlier blocks, for the layer whose turn it is; dropped behind them.
        weights: The attention of the last layer between patches (B, h * w, h * w), mean of the heads.
        windows: Windows that were seen beside the whole image, and their features.
    """

    tokens: list[Tensor] = field(default_factory=list)
    balanced: Tensor | None = None
    weights: Tensor = field(init=False)
    windows: tuple[PatchWindows, DenseFeatures] | None = None

    def rows(self, rows: slice) -> Layers:
        """Return what is kept of some of the images."""
        part = Layers([tokens[rows] for tokens in self.tokens])
        part.weights = self.weights[rows]
        if self.windows is not None:
            windows, seen = self.windows
            part.windows = windows, seen.rows(slice(rows.start * len(windows.plan), rows.stop * len(windows.plan)))
        return part


def layer_logits(
    joint: Callable[[Tensor, Context], DenseFeatures], dense: DenseFeatures, words: Words, scale: float
) -> Tensor:
    """Compare the tokens of all layers with every text and with the mean of the texts that are classes.

    Args:
        joint: Brings tokens to the joint space.
        dense: Of a pass that kept its `Layers`.
        words: T texts.
        scale: Factor between cosines and logits.

    Returns:
        (L, B, T + 1, h, w) float32; the mean comes last.
    """
    rows = words.rows(dense.cls)
    mean = rows[..., (words.query_to_class >= 0).to(rows.device), :].mean(-2, keepdim=True)
    texts = F.normalize(torch.cat([rows, mean], dim=-2), dim=-1)
    context = dense.context
    return scale * torch.stack([joint(tokens, context).cosines(texts) for tokens in context.kept(Layers).tokens])


def layer_probabilities(
    joint: Callable[[Tensor, Context], DenseFeatures], dense: DenseFeatures, words: Words, scale: float
) -> Tensor:
    """Return the probability (L, B, T, h, w) of every text in all layers; arguments as `layer_logits`.

    Where windows have been seen beside the whole image, theirs count half. Their logits are first mixed over the whole
    grid by the weights of the patches that share a window.
    """
    maps = layer_logits(joint, dense, words, scale).softmax(2)
    if (pair := dense.context.kept(Layers).windows) is not None:
        windows, seen = pair[0], pair[1].at(dense.context.tower)
        logits = windows.mean_scores(layer_logits(joint, seen, words, scale))
        mixed = logits.flatten(3) @ windows.mean_weights(seen.context.kept(Layers).weights)
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
