"""CLIPer: the last block sees the tokens of every block, by the attention of all earlier blocks together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ovseg.clip import Context, DenseFeatures, Tower
from ovseg.clip.tokens import Block
from ovseg.errors import at_least, one_of
from ovseg.guides import Guide
from ovseg.recalibration.base import RECALIBRATION_REGISTRY, Recalibration, layer_index
from ovseg.recalibration.cliper import layer_fusion
from ovseg.recalibration.cliper.attention_chain import Compensation, GuideMaps
from ovseg.recalibration.cliper.layer_maps import Layers, fuse_maps, layer_probabilities
from ovseg.recalibration.cliper.patch_windows import PatchWindows, side_and_step

if TYPE_CHECKING:
    from ovseg.contract import Words


@RECALIBRATION_REGISTRY.register()
class CLIPer(Recalibration):
    """CLIPer (Sun et al., ICCV 2025; github.com/linsun449/cliper.code); its scores are probabilities, no cosines."""

    residual, feed_forward, pos_resize = False, False, "bilinear"
    whole_image, attention_only = True, False
    not_exported = "words are compared with the tokens of every layer"

    def __init__(
        self,
        *,
        attn_type: str = "fused-attn",
        fuse_feature: bool = True,
        select_layer: float = -1,
        logit_scale: float = 100.0,
        attention_thr: float = 0.2,
        windows: tuple[int, ...] = (),
        guide: str | Guide | None = None,
        refinement: str | int = "SFSA",
        words_win: bool = True,
        half_position: bool = False,
        **common: Any,
    ) -> None:
        """Set the fusion and the compensation.

        Args:
            attn_type: Attention of the last block: ``fused-attn``, ``q-q``, ``k-k``, ``vanilla`` or ``identity``.
            fuse_feature: Whether the mean of the maps of all blocks is added to the one that is spread.
            select_layer: Block (index or share of the depth) whose map is spread by the attention of the last.
            logit_scale: Of the softmax over all texts.
            attention_thr: Share of its peak below which that map is zero; used for the guide's attention as well.
            windows: Side and step in pixels of windows that are encoded beside the whole image; empty for none.
            guide: Its attention compensates (diffusion in the paper), as `attention_chain` says.
            refinement: By the product of its maps (``SFSA``), their ``mean``, or one map, which is named by its index.
            words_win: Whether background words may win pixels; in the original thresholds alone make background.
            half_position: Round resized position embeddings to float16, as the original does even in float32.
            common: Options of `Recalibration`.
        """
        super().__init__(**common)
        self.attn_type, self.windows = one_of("attn_type", attn_type, layer_fusion.ATTENTIONS), side_and_step(windows)
        self.fuse_feature, self.select_layer, self.refinement = fuse_feature, select_layer, refinement
        self.attention_thr, self.logit_scale = attention_thr, at_least("logit_scale", logit_scale, 0.0)
        self.compensation = Compensation(guide, refinement, attention_thr)
        self.guide_name, self.words_win, self.half_position = self.compensation.name, words_win, half_position

    def blocks_of(self, depth: int) -> int:
        """Take over all blocks, to see their tokens and attention."""
        return at_least("depth of the CLIP, whose earlier blocks CLIPer fuses,", depth, 2)

    def run(self, tokens: Tensor, blocks: Sequence[Block], context: Context) -> Tensor:
        """Run all blocks as they are, then show the last what each of them was given; return that of one."""
        tokens = layer_fusion.embed_in_half(context, self.pos_resize) if self.half_position else tokens
        selected, found, layers = layer_index(self.select_layer, len(blocks)), {}, context.keep(Layers())
        given = layer_fusion.sources(tokens, blocks, self.attn_type == "fused-attn")
        for index, (source, layers.balanced) in enumerate(given):
            if self.fuse_feature or index in (selected, len(blocks) - 1):
                found[index] = self.run_block(source, blocks[-1], context)
        layers.tokens = list(found.values()) if self.fuse_feature else [found[selected]]
        return found[selected]

    def attention(self, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
        """Mix values by the fused attention, or by that of the block's own queries and keys."""
        layers = context.kept(Layers)
        weights = layer_fusion.attention_weights(self.attn_type, q, k, layers.balanced)
        layers.weights = context.tower.patch_pairs(weights.mean(1))
        return (weights @ v.float()).to(v.dtype)

    def encode(self, clip: Tower, images: Tensor, regions: Tensor | None = None) -> DenseFeatures:
        """Encode the images and, where they are wanted, their windows."""
        dense = self._dense(clip, images)
        if self.windows:
            windows = PatchWindows.over(dense.grid, clip.patch_size, self.windows)
            dense.context.kept(Layers).windows = windows, self._dense(clip, windows.plan.cut(images))
        if (maps := self.compensation.maps(dense.context)) is not None:
            dense.context.keep(GuideMaps(maps))
        return dense

    def _dense(self, clip: Tower, images: Tensor) -> DenseFeatures:
        dense = clip.dense(images, self)
        dense.context.kept(Layers).balanced = None  # large, and of no more use
        return dense

    def patch_scores(self, dense: DenseFeatures, words: Words) -> Tensor:
        """Return scores (B, T, a, b), 0 or more, on the grid of the guide where there is one."""
        maps = layer_probabilities(self.joint, dense, words, self.logit_scale)
        chosen = layer_index(self.select_layer, len(maps)) if self.fuse_feature else 0
        fused = fuse_maps(maps, chosen, dense.context.kept(Layers).weights, self.attention_thr, self.fuse_feature)
        guided = self.compensation.guide is not None
        scores = self.compensation(fused, dense.context.kept(GuideMaps)) if guided else fused
        return scores if self.words_win else scores * (words.query_to_class >= 0).to(scores)[:, None, None]
