"""CLIP-DINOiser: MaskCLIP's features pooled over the patches that belong together, and a rule for the background."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ovseg.clip.features import Context, DenseFeatures, Kept, Need
from ovseg.clip.tokens import Block
from ovseg.errors import ConfigError, at_least, one_of
from ovseg.guides.base import Guide, build_guide
from ovseg.recalibration.base import RECALIBRATION_REGISTRY, Recalibration, attend, layer_index
from ovseg.recalibration.clip_dinoiser.heads import LightHeads, load_heads
from ovseg.recalibration.clip_dinoiser.pooling import correlation_pool

if TYPE_CHECKING:
    from ovseg.contract import Words


@dataclass(frozen=True)
class Inner(Kept):
    """What the heads read: (B, C, h, w)."""

    features: Tensor


@dataclass(frozen=True)
class Objects(Kept):
    """Logits (B, 1, h, w) of "there is an object"."""

    logits: Tensor


@RECALIBRATION_REGISTRY.register()
class CLIP_DINOiser(Recalibration):
    """CLIP-DINOiser (Wysoczanska et al., ECCV 2024; github.com/wysoczanska/clip_dinoiser); scores are probabilities.

    Light heads (``weights``) or, without training, a guide (the original's: DINO) say which patches belong together.
    """

    pos_resize, attention_only = "bicubic_by_grid", False

    def __init__(
        self,
        *,
        weights: str | LightHeads = "",
        feats_idx: int | float | str = -3,
        guide: str | Guide = "clip",
        gamma: float | None = 0.2,
        delta: float = 0.99,
        found_class: int | None = None,
        **common: Any,
    ) -> None:
        """Choose who says what belongs together.

        Args:
            weights: File of heads, see `load_heads`; empty pools by the values of the guide.
            feats_idx: Block (see `layer_index`; not the last) whose second norm the heads read, or ``final``: features.
            guide: See `ovseg.guides`; not used with heads.
            gamma: Correlations below it are 0; None keeps all, negative ones too (what the original does at 0).
            delta: Probability below which a patch is uncertain.
            found_class: Class (-1: background words) that gets 1 where a patch is uncertain and no object; None is off.
            common: Options of `Recalibration`.
        """
        super().__init__(**common)
        if found_class is not None and not weights:
            raise ConfigError(f"found_class is {found_class} but nothing tells objects; give weights of trained heads")
        self.feats_idx = one_of("feats_idx", feats_idx, ("final",)) if isinstance(feats_idx, str) else feats_idx
        self.gamma, self.delta, self.found_class = gamma, delta, found_class
        if found_class is not None:
            self.not_exported = "a head says besides where no object is (found_class)"
        self.judge = load_heads(weights) if weights else build_guide(guide, "value")
        self.judge_name = self.judge.name

    def blocks_of(self, depth: int) -> int:
        """Take over the last blocks, from the one that the heads look into."""
        if isinstance(self.judge, Guide) or isinstance(self.feats_idx, str):
            return 1
        inside = layer_index(self.feats_idx, depth)
        return at_least(f"the number of blocks from feats_idx {self.feats_idx} on", depth - inside, 2)

    def needs_of(self, depth: int) -> Need:
        """Ask for what the guide needs."""
        return self.judge.needs_of(depth) if isinstance(self.judge, Guide) else Need()

    def attention(self, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
        """Let each token of the last block attend to itself alone, as MaskCLIP does."""
        return v

    def run(self, tokens: Tensor, blocks: Sequence[Block], context: Context) -> Tensor:
        """Run all but the last block as CLIP has them; keep what the feed-forward half of the first reads."""
        for index, block in enumerate(blocks[:-1]):
            tokens = tokens + block.project(attend(*block.qkv(tokens)))
            if index == 0:
                context.keep(Inner(context.lay_out(block.second_norm(tokens))))
            tokens = tokens + block.feed_forward(tokens)
        return self.run_block(tokens, blocks[-1], context)

    def joint(self, tokens: Tensor, context: Context) -> DenseFeatures:
        """Pool features over the patches that belong together; they come on the grid of those who say so."""
        dense = super().joint(tokens, context)
        if isinstance(self.judge, Guide):
            vectors = self.judge(context)
        else:
            inner = context.keep(context.kept(Inner, Inner(dense.features)))
            vectors, logits = self.judge(inner.features)
            context.keep(Objects(logits))
        return correlation_pool(dense, vectors, self.gamma)

    def patch_scores(self, dense: DenseFeatures, words: Words) -> Tensor:
        """Return probabilities (B, T, h, w), but 1 for the background where nothing is certain and no object is."""
        scores = (100 * super().patch_scores(dense, words)).softmax(1)  # 100 whatever the protocol's scale
        if self.found_class is None:
            return scores
        if not (own := words.query_to_class.to(scores.device) == self.found_class).any():
            raise ConfigError(f"found_class is {self.found_class} but no word is of that class; None is off")
        empty = (scores.amax(1, keepdim=True) < self.delta) & (dense.context.kept(Objects).logits <= 0)
        return scores.masked_fill(empty & own[:, None, None], 1.0)
