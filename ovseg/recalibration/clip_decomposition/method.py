"""CLIP_Decomposition: what each patch wrote into the class token, compared with words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg.clip.features import Context, DenseFeatures
from ovseg.clip.tokens import CLASS_EMBEDDING, HEADS_ADD, Block
from ovseg.errors import ConfigError
from ovseg.recalibration.base import RECALIBRATION_REGISTRY, Recalibration
from ovseg.recalibration.clip_decomposition.ledger import ClassTokenLedger

if TYPE_CHECKING:
    from ovseg.contract import Words


@RECALIBRATION_REGISTRY.register()
class CLIP_Decomposition(Recalibration):
    """Text-based decomposition (Gandelsman et al., ICLR 2024; github.com/yossigandelsman/clip_text_span).

    The embedding of an image is a sum over layers, heads and source tokens. The feature of a patch is its part of that
    sum over all layers and heads, divided by the length of the embedding; features of patches, of the class token and
    of the feed-forward halves add up to the unit embedding. `decompose` (in ledger.py) gives all parts,
    `text_span` names heads by texts.

    Scores are parts of a cosine, so of the size of one over the number of patches; configs scale them accordingly.
    """

    attention_only = False
    requires = Recalibration.requires | {CLASS_EMBEDDING, HEADS_ADD}

    def __init__(self, **common: Any) -> None:
        """Take the options of `Recalibration`; the stream of CLIP is explained as it is.

        Raises:
            ConfigError: The residual or the feed-forward half is switched off.
        """
        super().__init__(**common)
        if not (self.residual and self.feed_forward):
            raise ConfigError("CLIP_Decomposition explains CLIP as it is; leave residual and feed_forward at true")

    def blocks_of(self, depth: int) -> int:
        """Take all blocks: each writes into the class token."""
        return depth

    def run(self, tokens: Tensor, blocks: Sequence[Block], context: Context) -> Tensor:
        """Run CLIP unchanged, and book beside it what every token contributes to the class token."""
        ledger = context.keep(ClassTokenLedger(context.tower, tokens))
        for block in blocks:
            tokens = ledger.run_block(tokens, block)
        return tokens

    def joint(self, tokens: Tensor, context: Context) -> DenseFeatures:
        """Carry the contributions through the last norm and the projection, in float32."""
        parts = context.take(ClassTokenLedger).close(tokens)
        features = context.lay_out(parts.tokens)
        return DenseFeatures(features.to(tokens.dtype), parts.embedding.to(tokens.dtype), context.grid, context)

    def patch_scores(self, dense: DenseFeatures, words: Words) -> Tensor:
        """Return each text's part of the cosine, minus the mean over all texts; background words count among them."""
        heat = heatmap(dense, words.rows(dense.cls))
        return heat - heat.mean(1, keepdim=True)


def heatmap(dense: DenseFeatures, texts: Tensor) -> Tensor:
    """Return what each patch adds to the cosine of the image and each text (B, T, h, w), float32.

    Args:
        dense: Features of `CLIP_Decomposition`.
        texts: Unit rows (T, D), or (B, T, D).
    """
    texts = texts.to(dense.features.device, torch.float32)
    return (texts @ dense.features.float().flatten(2)).unflatten(2, dense.grid)


def relevance(heat: Tensor, chosen: Tensor, patch_size: int) -> tuple[Tensor, Tensor]:
    """Return where an image shows its class, by the rule of the paper, for every image on its own.

    Args:
        heat: Of all classes (B, K, h, w), see `heatmap`.
        chosen: Class (B,) int64 of each image.
        patch_size: In pixels.

    Returns:
        Relevance (B, H, W) in 0..1 (0 everywhere where it is constant), and the mask (B, H, W) bool where it is above
        its mean.
    """
    own = heat[torch.arange(len(heat), device=heat.device), chosen] - heat.mean(1)
    maps = F.interpolate(own[:, None], scale_factor=patch_size, mode="bilinear", align_corners=False)[:, 0].clamp(min=0)
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    maps = (maps - low) / (high - low).clamp_min(torch.finfo(maps.dtype).tiny)
    return maps, maps > maps.mean((1, 2), keepdim=True)
