"""Zero-guidance segmentation: segments found without any words, embedded one by one, named, and merged if alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ovseg.clip.features import Context, DenseFeatures, Kept, Need
from ovseg.clip.tokens import CLASS_EMBEDDING, Block
from ovseg.errors import at_least
from ovseg.guides import Guide, build_guide
from ovseg.recalibration.base import RECALIBRATION_REGISTRY, Recalibration, layer_index
from ovseg.recalibration.zero_guidance.segment_embedding import embed_segments
from ovseg.recalibration.zero_guidance.sibling_merging import named_segments
from ovseg.recalibration.zero_guidance.ward_tree import OverSegments, find_segments

if TYPE_CHECKING:
    from ovseg.contract import Words


@dataclass(frozen=True)
class Segments(Kept):
    """Of each image its over-segments, and the embeddings (n, D) of their nodes."""

    of_images: list[tuple[OverSegments, Tensor]]


@RECALIBRATION_REGISTRY.register()
class Zero_Guidance(Recalibration):
    """Zero-guidance segmentation (Rewatbowornwong et al., ICCV 2023; github.com/nessessence/ZeroGuidanceSeg).

    The nearest word of the vocabulary stands for the caption by a language model; the dense CRF on the leaves is left
    out. All nodes above the leaves are embedded with them: at most twice the passes of the original, but in parallel.
    """

    whole_image, attention_only = True, False
    requires = Recalibration.requires | {CLASS_EMBEDDING}
    not_compiled = "segments come from a clustering on the CPU"

    def __init__(
        self,
        *,
        guide: str | Guide = "clip",
        num_parts: int = 20,
        threshold: float = 0.9,
        half_splits: bool = False,
        mask_from: int | float = 20 / 24,
        sd: float | None = 5.0,
        merge_weight: float = 0.5,
        merge_threshold: float = 0.8,
        **common: Any,
    ) -> None:
        """Set segments, masks and merging.

        Args:
            guide: Whose keys are clustered; see `ovseg.guides`.
            num_parts: Parts of an image if every split is made.
            threshold: Cosine of two parts from which their split is not made.
            half_splits: Whether only the first half of the splits is looked at, an error of the original.
            mask_from: First block that sees a segment alone: its index, or the share of the depth before it.
            sd: Softness of the global subtraction; None subtracts nothing.
            merge_weight: Share of the embeddings' cosine in the likeness of siblings; the rest is that of their words.
            merge_threshold: Likeness from which siblings become one.
            common: Options of `Recalibration`.
        """
        super().__init__(**common)
        self.guide = build_guide(guide, "key")
        self.guide_name = guide if isinstance(guide, str) else type(guide).__name__
        self.num_parts, self.sd = at_least("num_parts", num_parts, 2), sd if sd is None else at_least("sd", sd, 1e-6)
        self.threshold, self.half_splits, self.mask_from = threshold, half_splits, mask_from
        self.merge_weight, self.merge_threshold = merge_weight, merge_threshold

    def blocks_of(self, depth: int) -> int:
        """Return how many of the last blocks see segments."""
        return max(depth - layer_index(self.mask_from, depth) - isinstance(self.mask_from, float), 1)

    def needs_of(self, depth: int) -> Need:
        """Ask for what the guide reads of the blocks before them; the rest is recorded here."""
        need, own = self.guide.needs_of(depth), depth - self.blocks_of(depth)
        return Need(tuple(index for index in need.hidden if index < own), need.attention)

    def run(self, tokens: Tensor, blocks: Sequence[Block], context: Context) -> Tensor:
        """Run on as CLIP has it, for the guide and the embedding of the image; then find and embed its segments."""
        plain, cut = tokens, (self.num_parts, self.threshold, self.half_splits)
        for index, block in enumerate(blocks, start=context.tower.depth - len(blocks)):
            plain = context.hidden[index] = block(plain)
        how = (blocks, context.tower, self.sd, self.residual, self.feed_forward)
        pairs = zip(tokens[:, None], self.guide(context), strict=True)
        found = [(own, find_segments(features, *cut)) for own, features in pairs]
        embedded = [(one, embed_segments(own, one.masks(context.grid), *how)[0]) for own, one in found]
        context.keep(Segments(embedded))
        return plain

    def joint(self, tokens: Tensor, context: Context) -> DenseFeatures:
        """Give every cell of the guide's grid the embedding of its leaf."""
        maps = torch.stack([rows[found.labels].permute(2, 0, 1) for found, rows in context.kept(Segments).of_images])
        return DenseFeatures(maps, super().joint(tokens, context).cls, (maps.shape[2], maps.shape[3]), context)

    def patch_scores(self, dense: DenseFeatures, words: Words) -> Tensor:
        """Name the segments, merge them, and give every cell the scores (B, T, a, b) of what became of its own."""
        named = self.named(dense, words)
        return torch.stack([torch.einsum("rt,rab->tab", scores, masks) for scores, masks in named])

    def region_maps(self, dense: DenseFeatures, words: Words) -> list[Tensor]:
        """Return the merged segments (R, a, b)."""
        return [masks for _, masks in self.named(dense, words)]

    def named(self, dense: DenseFeatures, words: Words) -> list[tuple[Tensor, Tensor]]:
        """Return for each image the scores (R, T) and masks (R, a, b) of its merged segments."""
        texts = words.rows(dense.cls).to(dense.cls.device, torch.float32).expand(len(dense.cls), -1, -1)
        how, pairs = (self.merge_weight, self.merge_threshold), dense.context.kept(Segments).of_images
        return [named_segments(found, rows, own, *how) for (found, rows), own in zip(pairs, texts, strict=True)]
