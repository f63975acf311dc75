"""MaskCLIP: each patch keeps its own value vector in the last block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import Tensor

from ovseg.clip.features import Context, DenseFeatures, Kept
from ovseg.clip.tokens import DENSE, Block
from ovseg.errors import at_least
from ovseg.recalibration.base import RECALIBRATION_REGISTRY, Recalibration

if TYPE_CHECKING:
    from ovseg.contract import Words

_TEMPERATURE = 100.0  # fixed in the original, whatever the scale of the protocol
_DROPPED = -100.0


@dataclass(frozen=True)
class Keys(Kept):
    """The projected keys (B, h * w, C) of the patches in the last block."""

    of_patches: Tensor


@RECALIBRATION_REGISTRY.register()
class MaskCLIP(Recalibration):
    """Identity attention of MaskCLIP (Zhou et al., ECCV 2022; github.com/chongzhou96/MaskCLIP).

    The original runs OpenAI's weights with exact GELU and norms of eps 1e-6. That is a property of the CLIP, not of the
    method: ``ViTClip.load(..., overrides={"quick_gelu": False, "vision_cfg": {"norm_kwargs": {"eps": 1e-6}}})``.
    On a ResNet each place goes through the value and output projections of the attention pool, without position.
    What later papers call MaskCLIP has no residual and no feed-forward: ``residual=False, feed_forward=False``.
    """

    pos_resize = "bicubic"
    requires, own_values = frozenset({DENSE}), True

    def __init__(self, *, pd_thresh: float = 0.0, ks_thresh: float = 0.0, **common: Any) -> None:
        """Set the two refinements, both off in the configurations of the original.

        Args:
            pd_thresh: Prompt denoising: a text whose probability stays below it at every patch is dropped.
            ks_thresh: Key smoothing: patches whose best probability is below it are smoothed by the similarity of keys.
                The scores are then probability-like, no cosines any more.
            common: Options of `Recalibration`.
        """
        super().__init__(**common)
        self.pd_thresh = at_least("pd_thresh", pd_thresh, 0.0)
        self.ks_thresh = at_least("ks_thresh", ks_thresh, 0.0)
        if self.ks_thresh > 0:
            self.requires = Recalibration.requires  # the keys of the last block
            self.not_exported = "keys of the last block smooth the scores (ks_thresh)"

    def attention(self, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
        """Let each token attend to itself alone."""
        return v

    def run_block(self, tokens: Tensor, block: Block, context: Context) -> Tensor:
        """Keep the projected keys of the patches if they will be needed."""
        if self.ks_thresh > 0:
            context.keep(Keys(context.tower.split(block.project(block.qkv(tokens)[1]))[1]))
        return super().run_block(tokens, block, context)

    def patch_scores(self, dense: DenseFeatures, words: Words) -> Tensor:
        """Apply prompt denoising, then key smoothing."""
        cosines = super().patch_scores(dense, words)
        if self.pd_thresh > 0:
            confidence = (_TEMPERATURE * cosines).softmax(1).amax((2, 3), keepdim=True)
            cosines = cosines.masked_fill(confidence < self.pd_thresh, _DROPPED)
        return self._smooth(cosines, dense.context.kept(Keys).of_patches) if self.ks_thresh > 0 else cosines

    def _smooth(self, cosines: Tensor, keys: Tensor) -> Tensor:
        # The original normalises keys along the tokens (dim 1), not along channels; its numbers depend on it.
        keys = F.normalize(keys.float(), dim=1)
        scores = (_TEMPERATURE * cosines).softmax(1).flatten(2)
        smooth = scores @ keys @ keys.mT  # (N, N) similarities are symmetric and never needed as such
        return scores.where(scores.amax(1, keepdim=True) >= self.ks_thresh, smooth).view_as(cosines)
