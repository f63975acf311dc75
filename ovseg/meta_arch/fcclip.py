"""FC-CLIP: one frozen convolutional CLIP proposes masks and names them, by a trained and by its own classifier."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from ovseg.checkpoint.fcclip import OFFICIAL
from ovseg.checkpoint.loading import Weights, load
from ovseg.clip.conv_clip import ConvClip
from ovseg.clip.vit_levels import VitClip
from ovseg.errors import ConfigError
from ovseg.meta_arch.conv_mask_model import ConvMaskModel, conv_parts, read_clip
from ovseg.ops.mask_pooling import resize_masks
from ovseg.proposals.classifier import LARGEST_SCALE, class_logits
from ovseg.proposals.ensemble import fuse, void_share, with_void
from ovseg.proposals.masked_decoder import Proposals
from ovseg.recalibration import build_recalibration
from ovseg.vocabulary import Background, Queries, Vocabulary
from ovseg.vocabulary.embedder import words_of_no_class


@dataclass(frozen=True)
class Ensemble:
    """How the two classifiers are mixed.

    Attributes:
        alpha: Exponent of the CLIP's probability for classes that the head was trained on, 0..1.
        beta: The same for all others.
        valid_masks_only: Trust the trained classifier alone where a mask is empty on the CLIP's grid.

    Raises:
        ConfigError: An exponent is out of range.
    """

    alpha: float = 0.4
    beta: float = 0.8
    valid_masks_only: bool = False

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not (0 <= self.alpha <= 1 and 0 <= self.beta <= 1):
            raise ConfigError(f"ensemble has alpha {self.alpha} and beta {self.beta}; expected numbers in 0..1")

    def scores(self, trained: Tensor, own: Tensor, mask_logits: Tensor, seen: Tensor, grid: tuple[int, int]) -> Tensor:
        """Mix two classifiers.

        Args:
            trained: Logits (B, Q, K + 1) of the trained one, "no object" last.
            own: Logits (B, Q, K + 1) of the CLIP; its "no object" does not count.
            mask_logits: (B, Q, H, W).
            seen: Bool (K,), which classes the head was trained on.
            grid: Rows and columns of the CLIP's features.

        Returns:
            Logarithms of probabilities (B, Q, K + 1), float32.
        """
        shares = torch.where(seen, self.alpha, self.beta)
        if self.valid_masks_only:
            shares = shares * valid_masks(mask_logits, grid)[..., None]
        return with_void(fuse(trained[..., :-1], own[..., :-1], shares), void_share(trained))


@META_ARCH_REGISTRY.register()
class FCCLIP(ConvMaskModel):
    """FC-CLIP.

    Yu et al., "Convolutions Die Hard: Open-Vocabulary Segmentation with Single Frozen Convolutional CLIP",
    NeurIPS 2023 (github.com/bytedance/fc-clip). Call `set_vocabulary` first.

    Ours, and not the paper's, is that CLIP may be a ViT (``MODEL.FCCLIP.VIT``) with the dense features of
    ``MODEL.RECALIBRATION``; see `ovseg.clip.vit_levels`.

    Attributes:
        ensemble: How the trained classifier and the CLIP's are mixed.
        trained_names: The words that the head was trained on; a class is seen if it has one of them, to the letter.
            None until they are known: then no class is seen, and training makes them those that it is given.
        seen: Bool (K,), which columns of the current words are seen.
    """

    @configurable
    def __init__(
        self, *, ensemble: Ensemble, trained_names: frozenset[str] | None, weights: Weights | None = None, **parts: Any
    ) -> None:
        """Put the parts together; a Detectron2 config is accepted in their place.

        Args:
            ensemble: See there.
            trained_names: See there.
            weights: In the layout of the released ones, or ours; None leaves the head untrained.
            parts: Those of `ConvMaskModel`.
        """
        super().__init__(**parts)
        self.ensemble, self.trained_names = ensemble, trained_names
        self.seen: Tensor | None = None
        if weights is not None:
            load(self, weights, OFFICIAL)
        elif not self.void.weight.is_meta:  # a model that is yet to be filled has no values
            self.refresh_hash()

    @staticmethod
    def parts(cfg: CfgNode, weights: Weights | None) -> dict[str, Any]:
        """Build the parts that a config names, with CLIP from the checkpoint if it brings one along."""
        node, source = cfg.MODEL.FCCLIP, cfg.MODEL.CLIP
        empty = OFFICIAL.holds_clip(weights)
        clip: ConvClip | VitClip
        if node.VIT:
            method = cfg.MODEL.RECALIBRATION
            recalibration = build_recalibration(method.NAME, **{k.lower(): v for k, v in method.OPTIONS.items()})
            clip = read_clip(VitClip, source, empty).recalibrated(recalibration)
        else:
            clip = read_clip(ConvClip, source, empty)
        words = node.TRAINED_VOCABULARY or cfg.MODEL.TEXT.VOCABULARY
        return {
            **conv_parts(cfg, node, clip),
            "ensemble": Ensemble(node.ALPHA, node.BETA, node.VALID_MASKS_ONLY),
            "trained_names": frozenset(Vocabulary.parse(words).queries) if words else None,
            "weights": weights,
        }

    @property
    def settings(self) -> dict[str, Any]:
        """What makes results besides the weights and the words, as JSON values; recorded in every result."""
        method = self.clip.recalibration if isinstance(self.clip, VitClip) else None
        return {
            "architecture": type(self).__name__,
            "clip": self.clip.name,
            "protocol": asdict(self.protocol),
            "rule": asdict(self.rule),
            "ensemble": asdict(self.ensemble),
            "trained_names": len(self.trained_names or ()),
            "text": self.text.to_json(),
            **({"recalibration": method.name, "options": method.options} if method else {}),
        }

    def set_vocabulary(
        self,
        vocabulary: Vocabulary,
        background: str | Background | Iterable[str] | None = None,
        templates: str | None = None,
    ) -> Queries:
        """Choose the words of the following calls; see `WordedModel.set_vocabulary`."""
        queries = super().set_vocabulary(vocabulary, background, templates)
        if self.training and self.trained_names is None:
            self.trained_names = frozenset(vocabulary.queries)
        words = words_of_no_class(vocabulary, self.background)[0]
        names = [*(entry.names for entry in vocabulary), *((word,) for word in words)]
        self.seen = seen_classes(names, self.trained_names or frozenset())
        return queries

    def class_scores(self, levels: dict[str, Tensor], proposals: Proposals, trained: Tensor) -> Tensor:
        """Mix the trained classifier with the CLIP's own, which sees what it sees inside of each mask."""
        dense, scale = levels["dense"], min(self.clip.logit_scale, LARGEST_SCALE)
        own = class_logits(self.clip.pool(dense, proposals.masks), self.rows(), scale, self.columns()[0], void=True)
        assert self.seen is not None
        grid = (dense.shape[2], dense.shape[3])
        return self.ensemble.scores(trained, own, proposals.masks, self.seen.to(dense.device), grid)


def valid_masks(mask_logits: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return which masks (B, Q) have a positive pixel when their logits (B, Q, H, W) are resized to a grid (h, w)."""
    return (resize_masks(mask_logits, grid) > 0).flatten(2).any(-1)


def seen_classes(names: Iterable[Iterable[str]], trained: frozenset[str]) -> Tensor:
    """Return which classes (K,) share a name, to the letter, with those of training; ``names`` are those of each."""
    return torch.tensor([not trained.isdisjoint(own) for own in names])
