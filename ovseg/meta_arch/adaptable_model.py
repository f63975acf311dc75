"""What FC-CLIP and MAFT+ make of an adapter of masks, where they have one: how it looks, and how it learns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from ovseg.checkpoint.loading import Official, Weights
from ovseg.checkpoint.mask_heads import ADAPTER
from ovseg.checkpoint.trained import trained_state
from ovseg.clip import Tower
from ovseg.clip.conv_clip import ConvClip
from ovseg.clip.convnext import ConvNeXtTower
from ovseg.clip.vit_levels import ViTPyramid
from ovseg.contract import Words
from ovseg.errors import ConfigError
from ovseg.losses.criterion import check_labels
from ovseg.losses.matcher import Target
from ovseg.losses.mixed_masks import AdapterRule, Pick, masks_to_learn, uniform_pick
from ovseg.losses.points import Draw, uniform_points
from ovseg.meta_arch.conv_mask_model import ConvMaskModel
from ovseg.meta_arch.mask_model import read_targets
from ovseg.meta_arch.section import Section
from ovseg.ops.linear_layers import pack_linears
from ovseg.proposals.mask_adapter import MaskAdapter, mask_adapter, pool_by_maps


class AdaptableModel(ConvMaskModel):
    """A model that may have an adapter of masks (`MaskAdapter`): CLIP looks then where that looks for a mask.

    Only the adapter is trained then. What it stands on is frozen, and stays in the files of the training.

    Attributes:
        adapter: See there; None: CLIP looks at the mask.
        adapter_rule: How it is trained.
        warm_void: Stands for `void` in the warm-up of an adapter, which leaves that of the head alone; else None.
        tunes_void: Whether `void` is trained with an adapter, behind its warm-up.
        kept: Names of the weights that were learnt before the adapter; see `ovseg.checkpoint.trained.trained_state`.
    """

    head = (*ConvMaskModel.head, "adapter.", "warm_void.")
    made_of = {**ConvMaskModel.made_of, "adapter": mask_adapter}  # noqa: RUF012
    unrecorded: ClassVar[tuple[str, ...]] = (*ConvMaskModel.unrecorded, "adapter_rule")
    tunes_void: ClassVar[bool]
    kept: frozenset[str] = frozenset()

    def __init__(
        self, adapter: MaskAdapter | None = None, adapter_rule: AdapterRule | None = None, **parts: Any
    ) -> None:
        """Put the parts together.

        Raises:
            ConfigError: The CLIP does not embed single pixels, which an adapter needs.
        """
        super().__init__(**parts)
        self.adapter, self.adapter_rule = adapter, adapter_rule or AdapterRule()
        self.warm_void: nn.Embedding | None = None
        if adapter is not None:
            check_pixels(self.clip)

    @classmethod
    def parts(cls, cfg: CfgNode, weights: Weights | None) -> dict[str, Any]:
        """Build the parts that a config names; see `MaskModel.parts`."""
        parts, section = super().parts(cfg, weights), Section(cls, cfg)
        adapter = section.make("adapter", parts["clip"].embed_dim)
        return {**parts, "adapter": adapter, "adapter_rule": section.make("adapter_rule")}

    def fill(self, weights: Weights | None, official: Official) -> None:
        """Load weights as `MaskModel.fill` does; an adapter that they have not is new, which `untrained` says.

        Raises:
            WeightsError: They do not fit.
        """
        if self.adapter is None:
            return super().fill(weights, official)
        parts: dict[str, nn.Module] = {"adapter": self.adapter}
        if self.adapter_rule.warms_up:
            parts["warm_void"] = nn.Embedding(1, self.clip.embed_dim)
        self.adapter = None  # for what follows is about the model that it stands on
        self.kept = frozenset(trained_state(self))
        self.requires_grad_(False)
        self.void.requires_grad_(self.tunes_void and not self.adapter_rule.warms_up)
        if weights is not None and "warm_void" not in parts:  # of no use behind the warm-up
            state = {key: value for key, value in weights.state.items() if not key.startswith("warm_void.")}
            weights = weights._replace(state=state)
        starts = {"adapter": ("adapter.", ADAPTER), "warm_void": ("warm_void.",)}
        there = [] if weights is None else [p for p in parts if any(k.startswith(starts[p]) for k in weights.state)]
        for name in there:
            setattr(self, name, parts[name])
        super().fill(weights, official)
        for name in parts.keys() - set(there):
            setattr(self, name, parts[name])
        self.refresh_hash()
        if weights is not None and "adapter" not in there:
            self.untrained = f"{weights.source} has no adapter of masks, which is new"
        return None

    @classmethod
    def check_training(cls, cfg: CfgNode) -> None:
        """Refuse an adapter on a head that has learnt nothing; see `WordedModel.check_training`."""
        if Section(cls, cfg).options["adapter"] and not cfg.MODEL.WEIGHTS:
            raise ConfigError(
                "an adapter learns with a head that has learnt already, and this one has no weights; give those of "
                f"{cls.official.model}, or of a training, as MODEL.WEIGHTS"
            )

    def pack(self) -> None:
        """Lay weights out for the CPU; see `WordedModel.pack`."""
        super().pack()
        if self.adapter is not None:
            pack_linears([self.adapter])

    def joint_features(self, dense: Tensor) -> Tensor | None:
        """Return `image_features`, for an adapter; see `ConvMaskModel.joint_features`."""
        return None if self.adapter is None else self.image_features(dense)

    def pooled(self, dense: Tensor, mask_logits: Tensor, features: Tensor | None) -> Tensor:
        """Return what CLIP sees of masks; see `ConvMaskModel.pooled`."""
        if self.adapter is None or features is None:
            return super().pooled(dense, mask_logits, features)
        return self.embed_masks(self.adapter, dense, features, mask_logits.sigmoid() > self.adapter.threshold)

    def embed_masks(self, adapter: MaskAdapter, dense: Tensor, features: Tensor, masks: Tensor) -> Tensor:
        """Return what CLIP sees where an adapter looks for masks.

        Args:
            adapter: That of the model.
            dense: CLIP's features (B, C, h, w).
            features: The same in the joint space (B, D, h, w), of `image_features`.
            masks: (B, N, H, W) in 0..1.

        Returns:
            (B, N, D), not of unit length: the mean of what the maps of a mask show.
        """
        vectors = pool_by_maps(dense, adapter(features, masks))
        return self.embed_pixels(vectors).unflatten(1, (-1, adapter.maps)).mean(2)

    def embed_pixels(self, vectors: Tensor) -> Tensor:
        """Bring features of CLIP (B, N, C), each by itself, to the joint space (B, N, D); those of a ViT are there."""
        tower = getattr(self.clip, "tower", None)
        return tower.embed(vectors) if isinstance(tower, ConvNeXtTower) else vectors

    def image_features(self, dense: Tensor) -> Tensor:
        """Return CLIP's features (B, C, h, w), each by itself, in the joint space (B, D, h, w)."""
        return self.embed_pixels(dense.flatten(2).mT).mT.unflatten(2, dense.shape[2:])

    def losses(
        self, batched_inputs: Sequence[dict[str, Any]], words: Words, draw: Draw = uniform_points
    ) -> dict[str, Tensor]:
        """Return the weighted losses of a batch: those of the adapter where there is one, else those of the head."""
        if self.adapter is None:
            return super().losses(batched_inputs, words, draw)
        images = self.training_batch(batched_inputs)
        return self.adapter_losses(self.adapter, images, read_targets(batched_inputs, images), words)

    def adapter_losses(
        self, adapter: MaskAdapter, images: Tensor, wanted: Sequence[Target], words: Words, pick: Pick = uniform_pick
    ) -> dict[str, Tensor]:
        """Return the weighted losses of the adapter.

        Args:
            adapter: That of the model.
            images: The padded batch (B, 3, H, W).
            wanted: What it shows.
            words: What is learnt.
            pick: Gives the random choices.

        Raises:
            ConfigError: A target's class is not among the words.
        """
        check_labels(wanted, len(words.column_class))
        rule, padded = self.adapter_rule, (images.shape[2], images.shape[3])
        with torch.no_grad():
            levels = self.clip.levels(images)
            dense = levels["dense"]
            features = self.image_features(dense)
            found = None if rule.warms_up else self.propose(levels)[-1].masks
            size = adapter.size_of(features)
            masks, labels = masks_to_learn(wanted, found, rule, adapter.threshold, padded, size, pick)
        embeddings = self.embed_masks(adapter, dense, features, masks)
        texts = self.texts(features, self.rows_before(words, self.warm_void or self.void))
        return rule.losses(self.clip_logits(embeddings, texts, words), embeddings, labels)


def check_pixels(clip: Tower) -> None:
    """Refuse a CLIP that does not embed single pixels.

    Raises:
        ConfigError: It does not.
    """
    if not isinstance(clip, ViTPyramid) and not (isinstance(clip, ConvClip) and isinstance(clip.tower, ConvNeXtTower)):
        raise ConfigError(
            f"an adapter looks at single pixels, which {clip.name} embeds by its attention over all of them; use a "
            "ConvNeXt"
        )
