"""FC-CLIP: one frozen convolutional CLIP proposes masks and names them, by a trained and by its own classifier."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from ovseg.checkpoint.loading import Weights
from ovseg.clip import ClipSource, Tower
from ovseg.clip.vit_levels import ViTPyramid
from ovseg.contract import Words
from ovseg.labelling.objects import MaskRule
from ovseg.losses.mixed_masks import AdapterRule
from ovseg.meta_arch.adaptable_model import AdaptableModel
from ovseg.meta_arch.conv_mask_model import Proposed, conv_clip
from ovseg.meta_arch.fcclip.weights import OFFICIAL
from ovseg.meta_arch.section import lower_keys
from ovseg.ops.mask_pooling import resize_masks
from ovseg.proposals.ensemble import Ensemble
from ovseg.recalibration import RECALIBRATIONS
from ovseg.system.registry import build


def any_clip(cfg: CfgNode, empty: bool = False, *, vit: bool = False) -> Tower:
    """Read the CLIP that a config names.

    Args:
        cfg: The whole config.
        empty: See `ovseg.clip.load_tower`.
        vit: Whether it is a ViT, with the dense features of ``MODEL.RECALIBRATION`` (ours, and not the paper's).
    """
    if not vit:
        return conv_clip(cfg, empty)
    method = cfg.MODEL.RECALIBRATION
    recalibration = build(RECALIBRATIONS, method.NAME, lower_keys(method.OPTIONS, "MODEL.RECALIBRATION.OPTIONS"))
    return ViTPyramid.read(ClipSource.of(cfg.MODEL.CLIP), empty).recalibrated(recalibration)


@META_ARCH_REGISTRY.register()
class FCCLIP(AdaptableModel):
    """FC-CLIP.

    Yu et al., "Convolutions Die Hard: Open-Vocabulary Segmentation with Single Frozen Convolutional CLIP",
    NeurIPS 2023 (github.com/bytedance/fc-clip).

    Ours, and not the paper's, is that CLIP may be a ViT (``MODEL.FCCLIP.VIT``) with the dense features of
    ``MODEL.RECALIBRATION``; see `ovseg.clip.vit_levels`.

    With an adapter of masks (``MODEL.FCCLIP.ADAPTER``) it is Mask-Adapter on FC-CLIP; see `AdaptableModel`.
    """

    official = OFFICIAL
    tunes_void = True
    made_of = {  # noqa: RUF012
        **AdaptableModel.made_of,
        "clip": any_clip,
        "rule": partial(MaskRule, panoptic=True, instances=True, object_threshold=0.0),
        "ensemble": Ensemble,
        "adapter_rule": AdapterRule,
    }

    @configurable
    def __init__(self, weights: Weights | None = None, **parts: Any) -> None:
        """Put the parts together; a Detectron2 config is accepted in their place.

        Args:
            weights: In the layout of the released ones, or ours; None leaves the head untrained.
            parts: Those of `AdaptableModel`.
        """
        super().__init__(**parts)
        self.fill(weights, OFFICIAL)

    @property
    def settings(self) -> dict[str, Any]:
        """What makes results besides the weights and the words, as JSON values; recorded in every result."""
        method = self.clip.recalibration if isinstance(self.clip, ViTPyramid) else None
        return {
            **super().settings,
            **({"recalibration": method.name, "options": method.options} if method else {}),
        }

    def looks(self, dense: Tensor, mask_logits: Tensor, features: Tensor | None) -> Sequence[Any]:
        """Return for each image which of its masks (Q,) have a pixel on CLIP's grid, where that counts."""
        if not self.ensemble.valid_masks_only:
            return super().looks(dense, mask_logits, features)
        return list(valid_masks(mask_logits, (dense.shape[2], dense.shape[3])))

    def class_scores(self, seen: Proposed, trained: Tensor, words: Words) -> Tensor:
        """Mix the trained classifier with the CLIP's own, which sees what it sees inside of each mask."""
        own = self.clip_logits(seen.pooled[None], self.rows(words), words)
        return self.mixed(trained, own, words, None if seen.looks is None else seen.looks[None])


def valid_masks(mask_logits: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return which masks (B, Q) have a positive pixel when their logits (B, Q, H, W) are resized to a grid (h, w)."""
    return (resize_masks(mask_logits, grid) > 0).flatten(2).any(-1)
