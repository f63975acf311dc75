"""MAFT+: FC-CLIP's head on a CLIP whose image tower is tuned with it, and texts that look at the image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from ovseg.checkpoint.loading import Weights
from ovseg.clip import Tower
from ovseg.clip.conv_clip import convnext_of
from ovseg.clip.convnext import ConvNeXtTower
from ovseg.contract import Words
from ovseg.labelling.objects import MaskRule
from ovseg.losses.matcher import Target
from ovseg.losses.mixed_masks import AdapterRule
from ovseg.losses.points import Draw
from ovseg.meta_arch.adaptable_model import AdaptableModel
from ovseg.meta_arch.conv_mask_model import Proposed, conv_clip
from ovseg.meta_arch.maft_plus.content_transfer import ContentTransfer
from ovseg.meta_arch.maft_plus.mask_aware import mask_aware_loss
from ovseg.meta_arch.maft_plus.representation import representation_loss
from ovseg.meta_arch.maft_plus.weights import OFFICIAL
from ovseg.meta_arch.section import Section
from ovseg.proposals.ensemble import Ensemble
from ovseg.proposals.masked_decoder import MaskedDecoder


def shares_of_clip(*, alpha: float = 1.0, beta: float = 1.0) -> Ensemble:
    """Return how much CLIP counts; by itself it names the masks alone.

    Args:
        alpha: See `Ensemble`.
        beta: Likewise.
    """
    return Ensemble(alpha=alpha, beta=beta)


@META_ARCH_REGISTRY.register()
class MAFTPlus(AdaptableModel):
    """MAFT+.

    Jiao et al., "Collaborative Vision-Text Representation Optimizing for Open-Vocabulary Segmentation", ECCV 2024
    (arXiv 2408.00744; github.com/jiaosiyu1999/MAFT-Plus). Trained are the head, the transfer and, of CLIP's image
    tower, all but its last norm and projection; the losses of the masks do not reach CLIP. With an adapter of masks
    (``MODEL.MAFTPlus.ADAPTER``) it is Mask-Adapter on MAFT+, which is trained on a tuned one; see `AdaptableModel`.

    Attributes:
        transfer: What adapts the texts to an image.
        compensation: Weight of the loss that keeps CLIP near to what it was.
    """

    head = (*AdaptableModel.head, "transfer.", "clip.model.visual.trunk.")
    official = OFFICIAL
    tunes_void = False
    made_of = {  # noqa: RUF012
        **AdaptableModel.made_of,
        "clip": conv_clip,
        "decoder": partial(MaskedDecoder, queries=100),
        "rule": partial(MaskRule, object_threshold=0.2, overlap_threshold=0.7),
        "ensemble": shares_of_clip,
        "transfer": ContentTransfer,
        "adapter_rule": partial(AdapterRule, adapter_inside=0.5, adapter_target_gradient=True),
    }

    @configurable
    def __init__(
        self,
        transfer: ContentTransfer,
        original: Callable[[], Tower],
        weights: Weights | None = None,
        *,
        rc_weight: float = 0.1,
        **parts: Any,
    ) -> None:
        """Put the parts together; a Detectron2 config is accepted in their place.

        Args:
            transfer: See there.
            original: Gives the CLIP from which training started; it is asked when there is something to learn from it.
            weights: In the layout of the released ones, or ours; None leaves CLIP as it was and the head untrained.
            rc_weight: Of the loss that keeps CLIP near to what it was.
            parts: Those of `AdaptableModel`.

        Raises:
            ConfigError: The CLIP is no ConvNeXt.
            WeightsError: The weights do not fit.
        """
        super().__init__(**parts)
        trunk = convnext_of(self.clip, "MAFT+").trunk
        self.transfer, self.original, self.compensation = transfer, original, rc_weight
        for part in (trunk.stem, trunk.stages, trunk.norm_pre):
            part.requires_grad_(True)
        self.fill(weights, OFFICIAL)

    @classmethod
    def parts(cls, cfg: CfgNode, weights: Weights | None) -> dict[str, Any]:
        """Build the parts that a config names; see `ConvMaskModel.parts`."""
        parts = super().parts(cfg, weights)
        transfer = Section(cls, cfg).make("transfer", parts["clip"].embed_dim)
        return {**parts, "transfer": transfer, "original": partial(conv_clip, cfg)}

    @cached_property
    def teacher(self) -> ConvNeXtTower:
        """The image tower as it was before it was tuned, frozen.

        It is no part of the module, so that no state dict holds it and results do without it.
        """
        tower = convnext_of(self.original(), "MAFT+")
        tower.trunk.to(self.clip.device, self.clip.dtype)
        return tower

    def joint_features(self, dense: Tensor) -> Tensor:
        """Return `image_features`, for texts that look at the image and an adapter that looks for masks."""
        return self.image_features(dense)

    def looks(self, dense: Tensor, mask_logits: Tensor, features: Tensor | None) -> Sequence[Any]:
        """Return what the texts look at, (D, h, w) for each image."""
        return super().looks(dense, mask_logits, features) if features is None else list(features)

    def class_scores(self, seen: Proposed, trained: Tensor, words: Words) -> Tensor:
        """Mix the trained classifier with CLIP, which names the masks by the texts of the image."""
        return self.mixed(trained, self.adapted_logits(seen.looks[None], seen.pooled[None], words), words)

    def cosines(self, seen: Proposed, words: Words) -> Tensor:
        """Compare the masks with every text that has looked at the image; see `MaskModel.cosines`."""
        texts = self.transfer(seen.looks[None], self.rows(words))[0, :-1]
        return F.normalize(seen.pooled, dim=-1) @ texts.to(seen.pooled).mT

    def adapted_logits(self, features: Tensor, pooled: Tensor, words: Words) -> Tensor:
        """Compare what CLIP sees inside of masks with texts that have looked at the image.

        Args:
            features: Of `image_features` (B, D, h, w).
            pooled: What CLIP sees inside of masks (B, Q, D).
            words: The texts.

        Returns:
            (B, Q, K + 1), "no object" last. The texts are not of unit length, so these are not scaled cosines.
        """
        return self.clip_logits(pooled, self.texts(features, self.rows(words)), words)

    def texts(self, features: Tensor, rows: Tensor) -> Tensor:
        """Let the rows (T + 1, D) look at images (B, D, h, w): (B, T + 1, D); see `ConvMaskModel.texts`."""
        return self.transfer(features, rows)

    def image_features(self, dense: Tensor) -> Tensor:
        """Return what the texts look at, (B, D, h, w), of CLIP's features (B, C, h, w).

        The original cuts the features, which lie channel by channel, into h * w vectors of length C as if they lay
        pixel by pixel. The released weights have learnt on these, so they are made here, too.
        """
        vectors = dense.reshape(len(dense), -1, dense.shape[1])
        return self.clip.tower.embed(vectors).mT.unflatten(2, dense.shape[2:])

    def head_losses(self, images: Tensor, wanted: Sequence[Target], words: Words, draw: Draw) -> dict[str, Tensor]:
        """Return the weighted losses of a padded batch (B, 3, H, W); see `ConvMaskModel.head_losses`.

        To those of `SetCriterion` come ``loss_ma`` (`mask_aware_loss`) and ``loss_rc`` (`representation_loss`), which
        tune CLIP. Unlike in the original, the tower runs once for all of them; that gives the same, as it has no
        dropout here.

        Raises:
            InputError: The images are too small for `representation_loss`.
        """
        levels = self.clip.levels(images)
        stages = self.stages({name: level.detach() for name, level in levels.items()}, words)
        dense, masks = levels["dense"], stages[-1].mask_logits.detach()
        adapted = self.adapted_logits(self.image_features(dense), self.clip.pool(dense, masks), words)
        with torch.no_grad():
            before = self.teacher.levels(images)["dense"]
        return {
            **self.criterion(stages, wanted, draw),
            "loss_ma": mask_aware_loss(adapted, masks, wanted),
            "loss_rc": self.compensation * representation_loss(dense, before),
        }
