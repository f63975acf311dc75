"""CLIP Surgery: a second stream of value-value attention, and scores without what all classes share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg.clip.features import Context, DenseFeatures, Kept
from ovseg.clip.tokens import Block, TokenTower
from ovseg.errors import at_least, one_of
from ovseg.recalibration.base import RECALIBRATION_REGISTRY, Recalibration, attend
from ovseg.recalibration.clip_surgery.points import stretch
from ovseg.vocabulary.embedder import TextEmbedder
from ovseg.vocabulary.templates import check_templates

if TYPE_CHECKING:
    from ovseg.contract import Words


@dataclass(frozen=True)
class Original(Kept):
    """The tokens (B, N, C) that leave CLIP's own stream."""

    tokens: Tensor


@RECALIBRATION_REGISTRY.register()
class CLIP_Surgery(Recalibration):
    """Architecture and feature surgery (Li et al., Pattern Recognition 2025; github.com/xmed-lab/CLIP_Surgery)."""

    feed_forward = False
    pos_resize = "bilinear"

    def __init__(
        self,
        *,
        last_n_layers: int = 6,
        surgery: str = "class_set",
        redundant_templates: str = "openai80",
        min_max: bool = True,
        **common: Any,
    ) -> None:
        """Choose the depth and the surgery on the scores.

        Args:
            last_n_layers: How many of the last blocks feed the second stream; 6 in the original for every depth.
            surgery: ``class_set`` takes from every class the mean over all, for two and more texts; ``redundant`` takes
                the empty text from every text, for a single one too; ``none`` leaves the cosines.
            redundant_templates: Template set of the empty text; that of the other texts fits best.
            min_max: Whether every map of scores is stretched to 0..1 over the patches of its image.
            common: Options of `Recalibration`; they act in the second stream alone.
        """
        super().__init__(**common)
        self.blocks = at_least("last_n_layers", last_n_layers, 1)
        self.surgery = one_of("surgery", surgery, ("class_set", "redundant", "none"))
        self.redundant_templates, self.min_max = check_templates(redundant_templates), min_max
        if self.surgery == "redundant":
            self.not_exported = "the empty text is asked of the text tower"
        self.empty_texts: dict[tuple[str, torch.dtype], Tensor] = {}  # by weights and dtype of a tower

    def run(self, tokens: Tensor, blocks: Sequence[Block], context: Context) -> Tensor:
        """Return the second stream, which only collects attention; CLIP's own stream is left in the context."""
        stream = tokens
        for block in blocks:
            query, key, value = block.qkv(tokens)
            attended = block.project(attend(value, value, value))
            stream = stream + attended if self.residual else attended
            stream = stream + block.feed_forward(stream) if self.feed_forward else stream
            tokens = tokens + block.project(attend(query, key, value))
            tokens = tokens + block.feed_forward(tokens)
        context.keep(Original(tokens))
        return stream

    def joint(self, tokens: Tensor, context: Context) -> DenseFeatures:
        """Take the patches from the second stream and the embedding of the image from CLIP's own."""
        dense = super().joint(tokens, context)
        dense.cls = context.tower.head(context.take(Original).tokens)[1]
        return dense

    def patch_scores(self, dense: DenseFeatures, words: Words) -> Tensor:
        """Return scores (B, T, h, w) after the surgery."""
        texts = words.rows(dense.cls).to(dense.cls.device, torch.float32)
        if self.surgery == "redundant":
            texts = texts - self.empty_text(dense.context.tower).to(texts)
        scores = dense.cosines(texts)
        if self.surgery == "class_set":
            cls = (texts @ F.normalize(dense.cls.float(), dim=1)[..., None])[..., 0]
            scores = without_shared(scores, cls)
        return stretch(scores) if self.min_max else scores

    def empty_text(self, tower: TokenTower) -> Tensor:
        """Return the embedding (1, D) of the empty text, which a tower is asked for once."""
        key = (tower.weights_hash, tower.dtype)
        if key not in self.empty_texts:
            self.empty_texts[key] = TextEmbedder(tower, self.redundant_templates).embed([""])
        return self.empty_texts[key]


def without_shared(cosines: Tensor, cls: Tensor) -> Tensor:
    """Weigh cosines (B, T, h, w) by how well each text fits the image, (B, T), and take away their mean over texts."""
    weights = (2 * cls).softmax(1) * cls.shape[1]
    weighted = cosines * weights[:, :, None, None]
    return weighted - weighted.mean(1, keepdim=True)
