"""FC-CLIP: one frozen convolutional CLIP proposes masks and names them, by a trained and by its own classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from ovseg.checkpoint.loading import Weights
from ovseg.clip import ClipSource, Tower
from ovseg.clip.vit_levels import ViTPyramid
from ovseg.contract import Words
from ovseg.errors import ConfigError
from ovseg.labelling.known import seen_columns
from ovseg.labelling.objects import MaskRule
from ovseg.meta_arch.conv_mask_model import ConvMaskModel, Proposed, conv_clip
from ovseg.meta_arch.fcclip.weights import OFFICIAL
from ovseg.meta_arch.section import Section, lower_keys
from ovseg.ops.mask_pooling import resize_masks
from ovseg.proposals.classifier import LARGEST_SCALE, class_logits
from ovseg.proposals.ensemble import fuse, void_share, with_void
from ovseg.proposals.masked_decoder import Proposals
from ovseg.recalibration import RECALIBRATIONS
from ovseg.system.registry import build
from ovseg.system.values import short_hash
from ovseg.vocabulary import Vocabulary


@dataclass(frozen=True, kw_only=True)
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

    def scores(self, trained: Tensor, own: Tensor, seen: Tensor, valid: Tensor | None = None) -> Tensor:
        """Mix two classifiers.

        Args:
            trained: Logits (B, Q, K + 1) of the trained one, "no object" last.
            own: Logits (B, Q, K + 1) of the CLIP; its "no object" does not count.
            seen: Bool (K,), which classes the head was trained on.
            valid: Bool (B, Q), masks that are not empty on the CLIP's grid; None where all count.

        Returns:
            Logarithms of probabilities (B, Q, K + 1), float32.
        """
        shares = torch.where(seen, self.alpha, self.beta)
        if valid is not None:
            shares = shares * valid[..., None]
        return with_void(fuse(trained[..., :-1], own[..., :-1], shares), void_share(trained))


def read_words(usual: str, *, trained_vocabulary: str = "") -> frozenset[str] | None:
    """Read the words of a training; None if they are not known.

    Args:
        usual: What stands for them where nothing else is said: the words of the config.
        trained_vocabulary: A preset, a file, or a list.
    """
    words = trained_vocabulary or usual
    return frozenset(Vocabulary.parse(words).queries) if words else None


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
class FCCLIP(ConvMaskModel):
    """FC-CLIP.

    Yu et al., "Convolutions Die Hard: Open-Vocabulary Segmentation with Single Frozen Convolutional CLIP",
    NeurIPS 2023 (github.com/bytedance/fc-clip).

    Ours, and not the paper's, is that CLIP may be a ViT (``MODEL.FCCLIP.VIT``) with the dense features of
    ``MODEL.RECALIBRATION``; see `ovseg.clip.vit_levels`.

    Attributes:
        ensemble: How the trained classifier and the CLIP's are mixed.
        trained_names: The words that the head was trained on; a class is seen if it has one of them, to the letter.
            None until they are known: then no class is seen, and training makes them those that it is given.
    """

    official = OFFICIAL
    made_of = {  # noqa: RUF012
        **ConvMaskModel.made_of,
        "clip": any_clip,
        "rule": partial(MaskRule, panoptic=True, instances=True, object_threshold=0.0),
        "ensemble": Ensemble,
        "trained_names": read_words,
    }
    unrecorded = ("criterion", "trained_names")

    @configurable
    def __init__(
        self, ensemble: Ensemble, trained_names: frozenset[str] | None, weights: Weights | None = None, **parts: Any
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
        self.fill(weights, OFFICIAL)

    @classmethod
    def parts(cls, cfg: CfgNode, weights: Weights | None) -> dict[str, Any]:
        """Build the parts that a config names; see `ConvMaskModel.parts`."""
        section = Section(cls, cfg)
        names = section.make("trained_names", cfg.MODEL.TEXT.VOCABULARY)
        return {**super().parts(cfg, weights), "ensemble": section.make("ensemble"), "trained_names": names}

    @property
    def settings(self) -> dict[str, Any]:
        """What makes results besides the weights and the words, as JSON values; recorded in every result."""
        method = self.clip.recalibration if isinstance(self.clip, ViTPyramid) else None
        return {
            **super().settings,
            "ensemble": asdict(self.ensemble),
            "trained_names": _brief(self.trained_names or frozenset()),
            **({"recalibration": method.name, "options": method.options} if method else {}),
        }

    def start_training(self, words: Words) -> None:
        """Learn the names of a training, where none are known yet."""
        if self.trained_names is None:
            self.trained_names = frozenset(words.vocabulary.queries)

    def looks(self, levels: dict[str, Tensor], proposals: Proposals) -> Sequence[Any]:
        """Return for each image which of its masks (Q,) have a pixel on CLIP's grid, where that counts."""
        if not self.ensemble.valid_masks_only:
            return super().looks(levels, proposals)
        dense = levels["dense"]
        return list(valid_masks(proposals.masks, (dense.shape[2], dense.shape[3])))

    def class_scores(self, seen: Proposed, trained: Tensor, words: Words) -> Tensor:
        """Mix the trained classifier with the CLIP's own, which sees what it sees inside of each mask."""
        scale = min(self.clip.logit_scale, LARGEST_SCALE)
        own = class_logits(seen.pooled[None], self.rows(words), scale, words.columns, void=True)
        known = seen_columns(words, self.trained_names or frozenset()).to(own.device)
        return self.ensemble.scores(trained, own, known, None if seen.looks is None else seen.looks[None])


def valid_masks(mask_logits: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return which masks (B, Q) have a positive pixel when their logits (B, Q, H, W) are resized to a grid (h, w)."""
    return (resize_masks(mask_logits, grid) > 0).flatten(2).any(-1)


def _brief(names: frozenset[str]) -> dict[str, Any]:
    """Return how many names these are, and 16 hex digits that say which."""
    return {"count": len(names), "hash": short_hash("\n".join(sorted(names)))}
