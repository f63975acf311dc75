"""CAT-Seg's aggregator: from the cost maps of all classes to their logits at four times the side."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from ovseg.aggregation.checks import all_at_least, check_pooling
from ovseg.aggregation.classes import ClassAggregation
from ovseg.aggregation.cost import cost_maps, nearest_classes
from ovseg.aggregation.parts import few_at_a_time, made_in_parts, on_device, step_of
from ovseg.aggregation.spatial import SpatialAggregation
from ovseg.labelling.sliding import Logits
from ovseg.meta_arch.cat_seg.decoder import Decoder


class View(NamedTuple):
    """What an image, or a window of one, shows: nothing in it knows words; each (V, ...) of V views or (...) of one.

    Attributes:
        features: CLIP's dense features (V, D, h, w), not of unit length.
        guidance: What leads the aggregation in each map (V, G, h, w).
        first, second: What leads the upsampling, behind its first convolutions (V, C, 2 h, 2 w) and (V, C, 4 h, 4 w).
    """

    features: Tensor
    guidance: Tensor
    first: Tensor
    second: Tensor


class Aggregator(nn.Module):
    """Refines cost maps in each map and over classes, and upsamples them.

    Cho et al., CAT-Seg: Cost Aggregation for Open-Vocabulary Semantic Segmentation, CVPR 2024, arXiv 2303.11797;
    github.com/cvlab-kaist/CAT-Seg.

    Attributes:
        fill: Shorter lists are filled up to so many classes; 0 for never.
        most: Lists of more classes are cut to so many in each view; see `nearest_classes`.
        step: Classes that are computed at a time on a CPU where nothing is learnt; 0 for all.
    """

    def __init__(
        self,
        embed_dim: int,
        grid: tuple[int, int],
        decoder: Decoder,
        *,
        hidden: int = 128,
        layers: int = 2,
        heads: int = 4,
        swin_window: int = 12,
        guidance: int = 128,
        text_guidance: int = 128,
        prompts: int = 1,
        pooling: tuple[int, ...] = (1, 1),
        train_pooling: tuple[int, ...] = (2, 2),
        attention: str = "linear",
        fill: int = 256,
        most: int = 256,
    ) -> None:
        """Build it untrained.

        Args:
            embed_dim: Length of texts and dense features.
            grid: Rows and columns of the dense features.
            decoder: Of the same number of channels.
            hidden: Channels of the maps.
            layers: Each an aggregation in the maps and one over classes.
            heads: Of all attention.
            swin_window: Places along the side of a window; see `SpatialAggregation`.
            guidance: Channels of what leads the aggregation in the maps.
            text_guidance: Of what leads that over classes; 0 for none.
            prompts: Texts a class, which are channels of its cost.
            pooling: Places along rows and columns that the aggregation over classes takes together.
            train_pooling: The same in training.
            attention: Over classes: ``linear``, or ``full`` for a softmax.
            fill: Shorter lists are filled up to so many classes with a learnt one, as the released weights were
                trained; 0 for never.
            most: Of longer lists so many classes are aggregated in each view, those with the largest cosine anywhere
                in it (the original's rule); 0 for all of them, which is exact and takes as much longer. In training
                all are (the original cuts there, too, for which its 171 classes give no occasion).

        Raises:
            ConfigError: Numbers cannot be used, or do not fit together.
        """
        super().__init__()
        check_pooling(grid, pooling=pooling, train_pooling=train_pooling)
        all_at_least(1, hidden=hidden, layers=layers, guidance=guidance, prompts=prompts)
        all_at_least(0, text_guidance=text_guidance, fill=fill, most=most)
        self.grid, self.fill, self.most, self.step, self.decoder = grid, fill, most, 8, decoder
        self.embed = nn.Conv2d(prompts, hidden, 7, padding=3)
        self.guide = nn.Conv2d(embed_dim, guidance, 3, padding=1)
        self.guide_text = nn.Linear(embed_dim, text_guidance) if text_guidance else None
        self.spatial = nn.ModuleList(
            SpatialAggregation(hidden, guidance, grid, heads, swin_window) for _ in range(layers)
        )
        pools = (pooling[0], pooling[1]), (train_pooling[0], train_pooling[1])
        self.classes = nn.ModuleList(
            ClassAggregation(hidden, text_guidance, heads, *pools, attention, fill) for _ in range(layers)
        )

    def look(self, features: Tensor, first: Tensor, second: Tensor) -> View:
        """Prepare what knows no words.

        Args:
            features: CLIP's dense features (V, D, h, w).
            first: The upsampled map of its middle blocks at twice the side (V, C, 2 h, 2 w).
            second: At four times the side (V, C, 4 h, 4 w).
        """
        return View(features, F.relu(self.guide(features)), *self.decoder.look(first, second))

    def forward(self, view: View, texts: Tensor) -> Logits:
        """Compare one view with texts (T, P, D) of any length."""
        cost = cost_maps(view.features, texts)
        kept = nearest_classes(cost, self.most)
        if kept is not None:
            cost, texts = cost[kept], texts[kept.to(texts.device)]
        return Logits(self.aggregate(cost, view, self.text_guidance(texts.to(cost))), kept)

    def compare(self, view: View, texts: Tensor) -> Tensor:
        """Return the logits (T, 4 h, 4 w) of all texts (T, P, D) on one view, however many they are, as in training."""
        return self.aggregate(cost_maps(view.features, texts), view, self.text_guidance(texts))

    def text_guidance(self, texts: Tensor) -> Tensor | None:
        """Return what leads the aggregation over classes (T, G), of texts (T, P, D)."""
        if self.guide_text is None:
            return None
        return F.relu(self.guide_text(F.normalize(texts.mean(1), dim=-1)))

    def aggregate(self, cost: Tensor, view: View, texts: Tensor | None) -> Tensor:
        """Return logits (T, 4 h, 4 w) of cost maps (T, P, h, w), led by a view and by texts (T, G)."""
        step = step_of(on_device(self.step, cost.device))
        x = made_in_parts(lambda part: self.embed(part).flatten(2).mT, step, cost)
        led = view.guidance.flatten(1).mT
        for spatial, classes in zip(self.spatial, self.classes, strict=True):
            x = few_at_a_time(lambda part, own=spatial: own(part, led), step, x)
            x = classes(x, self.grid, texts, step)
        return made_in_parts(lambda part: self.upsample(part, view), step, x)

    def upsample(self, x: Tensor, view: View) -> Tensor:
        """Return the logits (t, 4 h, 4 w) of maps (t, h * w, C)."""
        return self.decoder(x.mT.unflatten(2, self.grid), view.first, view.second)
