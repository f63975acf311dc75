"""SED's decoder: cost maps become logits in three stages, and classes may leave on the way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovseg.aggregation.checks import all_at_least, check_count
from ovseg.aggregation.classes import ClassAggregation
from ovseg.aggregation.cost import cost_maps
from ovseg.aggregation.parts import few_at_a_time, made_in_parts, on_device, step_of
from ovseg.aggregation.upsampling import GuidedUpsampling
from ovseg.errors import ConfigError

STAGES = 3


class View(NamedTuple):
    """What an image shows; nothing in it knows words. Each is (V, ...) of V images or (...) of one.

    Attributes:
        features: CLIP's dense features (V, D, h, w), not of unit length.
        first, second, third: What leads the stages, behind their first convolutions, at 2, 4 and 8 times the side.
    """

    features: Tensor
    first: Tensor
    second: Tensor
    third: Tensor


class Decoded(NamedTuple):
    """Logits of one image.

    Attributes:
        maps: (K, 8 h, 8 w) of the classes that came through.
        early: Of the heads before each stage, of the classes that entered it.
        classes: Which came through (K,) int64, rising; None for all.
        left: Which were there behind each of those heads, where classes were rejected.
    """

    maps: Tensor
    early: list[Tensor]
    classes: Tensor | None
    left: list[Tensor]


class ConvNeXtBlock(nn.Module):
    """A ConvNeXt block (Liu et al., CVPR 2022) whose layer scale starts at 1."""

    def __init__(self, dim: int, kernel: int) -> None:
        super().__init__()
        if kernel < 1 or kernel % 2 == 0:
            raise ConfigError(f"kernels has {kernel}; expected odd numbers, which leave maps as large as they are")
        self.dwconv = nn.Conv2d(dim, dim, kernel, padding=kernel // 2, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pwconv1, self.pwconv2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Run on maps (t, C, h, w)."""
        own = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        own = self.gamma * self.pwconv2(F.gelu(self.pwconv1(own)))
        return x + own.permute(0, 3, 1, 2)


class Stage(nn.Module):
    """One stage: in each map, over classes, and upwards with guidance of CLIP and of the cost."""

    def __init__(self, dim: int, out: int, guidance: int, kernel: int, classes: ClassAggregation) -> None:
        super().__init__()
        self.cnext = ConvNeXtBlock(dim, kernel)
        self.classes = classes
        self.up = GuidedUpsampling(dim, out, guidance, guidance)

    def aggregate(self, x: Tensor, texts: Tensor | None, step: int) -> Tensor:
        """Refine maps (T, C, h, w) in place, given the text guidance (T, G)."""
        grid = (x.shape[2], x.shape[3])
        x = few_at_a_time(self.cnext, step, x)
        return _maps(self.classes(_rows(x).contiguous(), grid, texts, step), grid)


class Decoder(nn.Module):
    """Xie et al., SED: A Simple Encoder-Decoder for Open-Vocabulary Semantic Segmentation, CVPR 2024, arXiv 2311.15537.

    github.com/xb534/SED.

    Attributes:
        prompts: Texts a class, which are channels of its cost.
        top: See the constructor.
        step: Classes that are computed at a time on a CPU where nothing is learnt; 0 for all.
    """

    def __init__(
        self,
        embed_dim: int,
        channels: dict[str, int],
        *,
        prompts: int = 80,
        hidden: int = 128,
        heads: int = 4,
        decoder_dims: tuple[int, ...] = (64, 32, 16),
        decoder_guidance: tuple[int, ...] = (32, 16, 8),
        kernels: tuple[int, ...] = (9, 9, 9),
        text_guidance: bool = False,
        pooling: tuple[int, ...] = (1, 1),
        train_pooling: tuple[int, ...] = (2, 2),
        attention: str = "linear",
        fast: bool = False,
        top: int = 8,
    ) -> None:
        """Build it untrained.

        Args:
            embed_dim: Length of texts and dense features.
            channels: Of CLIP's levels.
            prompts: Texts a class, which are channels of its cost.
            hidden: Channels of the maps at first.
            heads: Of the attention over classes.
            decoder_dims: Channels behind each stage, multiples of 16.
            decoder_guidance: Channels of CLIP's and of the cost's guidance in each stage.
            kernels: Sides of the kernels of each stage's ConvNeXt block.
            text_guidance: Whether texts enter the attention over classes; the released weights have none of it.
            pooling: Places along rows and columns that the aggregation over classes takes together.
            train_pooling: The same in training.
            attention: Over classes: ``linear``, or ``full`` for a softmax.
            fast: Whether classes leave before each stage that are nowhere among the ``top``, as the original's early
                rejection; they have no map then, and probability zero.
            top: So many classes of each place stay.

        Raises:
            ConfigError: Numbers cannot be used, or do not fit together.
        """
        super().__init__()
        check_count(STAGES, decoder_dims=decoder_dims, decoder_guidance=decoder_guidance, kernels=kernels)
        check_count(2, pooling=pooling, train_pooling=train_pooling)
        all_at_least(1, hidden=hidden, prompts=prompts, top=top, decoder_guidance=decoder_guidance)
        self.prompts, self.top, self.step = prompts, top if fast else 0, 4
        self.embed = nn.Conv2d(prompts, hidden, 7, padding=3)
        dims = (hidden, *decoder_dims)
        levels = (channels[name] for name in ("res4", "res3", "res2"))
        pairs = zip(levels, decoder_guidance, strict=True)
        self.guides = nn.ModuleList(nn.Conv2d(inside, out, 3, padding=1) for inside, out in pairs)
        chain = zip((prompts, *decoder_guidance), decoder_guidance, strict=False)
        self.cost_guides = nn.ModuleList(nn.ConvTranspose2d(inside, out, 2, 2) for inside, out in chain)
        self.guide_texts = nn.ModuleList(nn.Linear(embed_dim, dim) for dim in dims[:-1]) if text_guidance else None
        pools = (pooling[0], pooling[1]), (train_pooling[0], train_pooling[1])
        over = [ClassAggregation(dim, dim * text_guidance, heads, *pools, attention) for dim in dims[:-1]]
        sizes = zip(dims, dims[1:], decoder_guidance, kernels, over, strict=False)
        self.stages = nn.ModuleList(Stage(*own) for own in sizes)
        self.early = nn.ModuleList(nn.Conv2d(dim, 1, 3, padding=1) for dim in dims[:-1])
        self.head = nn.Conv2d(dims[-1], 1, 3, padding=1)

    def look(self, features: Tensor, levels: dict[str, Tensor]) -> View:
        """Prepare what knows no words, of CLIP's dense features (V, D, h, w) and its levels."""
        stages: Any = self.stages
        led = [F.relu(guide(levels[name])) for guide, name in zip(self.guides, ("res4", "res3", "res2"), strict=True)]
        return View(features, *(stage.up.share(own) for stage, own in zip(stages, led, strict=True)))

    def forward(self, view: View, texts: Tensor) -> Decoded:
        """Compare one image with texts (T, P, D) of any length."""
        cost, led = cost_maps(view.features, texts), self.text_guidance(texts)
        step = step_of(on_device(self.step, cost.device))
        x = _maps(made_in_parts(lambda part: _rows(self.embed(part)), step, cost), cost.shape[2:])
        kept, early, left = torch.arange(cost.shape[0], device=x.device), [], []
        stages: Any = self.stages
        for index, (stage, head) in enumerate(zip(stages, self.early, strict=True)):
            early.append(made_in_parts(lambda part, own=head: own(part)[:, 0], step, x.detach()))
            if self.top and not self.training:
                some = among_the_best(early[-1], self.top)
                x, cost, kept = x[some], cost[some], kept[some]
                left.append(kept)
            text = None if led is None else led[index][kept]
            x = stage.aggregate(x, text, step)
            x = self._upwards(x, cost, index, view, step)
        return Decoded(x, early, kept if left else None, left)

    def _upwards(self, x: Tensor, cost: Tensor, index: int, view: View, step: int) -> Tensor:
        """Return the maps (T, C', 2 h, 2 w) behind a stage, or behind the last one their logits (T, 2 h, 2 w).

        No more classes meet behind it, so their maps of many channels are never there together.
        """
        stage: Any = self.stages[index]
        last = index + 1 == len(self.stages)

        def run(part: Tensor, own: Tensor) -> Tensor:
            for guide in list(self.cost_guides)[: index + 1]:
                own = F.relu(guide(own))
            found = stage.up(part, view[1 + index], own)
            return self.head(found)[:, 0] if last else _rows(found)

        found = made_in_parts(run, step, x, cost)
        return found if last else _maps(found, (2 * x.shape[2], 2 * x.shape[3]))

    def text_guidance(self, texts: Tensor) -> list[Tensor] | None:
        """Return what leads each stage's aggregation over classes (T, C), of texts (T, P, D); None without it."""
        if self.guide_texts is None:
            return None
        mean = F.normalize(texts.mean(1), dim=-1)
        return [F.relu(guide(mean)) for guide in self.guide_texts]


def _rows(maps: Tensor) -> Tensor:
    """Lay maps (T, C, h, w) out as the aggregation over classes takes them: (T, h * w, C)."""
    return maps.flatten(2).mT


def _maps(rows: Tensor, grid: Sequence[int]) -> Tensor:
    """Return maps (T, C, h, w) that lie in memory as rows (T, h * w, C) do, so that nothing is copied for them."""
    return rows.mT.unflatten(2, tuple(grid))


def among_the_best(logits: Tensor, top: int) -> Tensor:
    """Return which of classes (T,), rising, are among the best so many at any place of their logits (T, h, w)."""
    best = logits.topk(min(top, len(logits)), dim=0).indices
    return best.unique()
