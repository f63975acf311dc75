"""Talk2DINO: DINO's patches, named by CLIP's texts that a small trained network brings to where they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from ovseg.checkpoint.loading import Weights
from ovseg.clip import ClipSource, Tower, load_tower
from ovseg.clip.architectures import architecture
from ovseg.contract import Words
from ovseg.data.preprocessing import SizeRule
from ovseg.errors import ConfigError, WeightsError
from ovseg.labelling.protocol import Protocol
from ovseg.labelling.scores import ScoreRule
from ovseg.meta_arch.dense_model import DenseModel, view_of
from ovseg.meta_arch.section import Section, Sectioned
from ovseg.meta_arch.talk2dino.head_file import read_taught
from ovseg.meta_arch.talk2dino.masks import Masks, make_masks, width_of
from ovseg.meta_arch.talk2dino.projection import fill, read_projection
from ovseg.ops.linear_layers import lower_products
from ovseg.vocabulary import TextOptions

_ENGINEERED = ("autoclip", "auxiliary", "descriptions", "linear", "subclasses")


@META_ARCH_REGISTRY.register()
class Talk2DINO(DenseModel, Sectioned):
    """Talk2DINO (Barsellotti et al., ICCV 2025; github.com/lorebianchi98/Talk2DINO).

    Attributes:
        training_state: Of the training whose checkpoint it was filled from, in words; empty for finished weights.
    """

    made_of: ClassVar[Mapping[str, Any]] = {"masks": make_masks}
    head: ClassVar[tuple[str, ...]] = ("recalibration.projection.",)
    raw_texts = True
    extra_packed = ("recalibration.backbone.blocks",)

    @configurable
    def __init__(
        self,
        clip: Tower,
        masks: Masks,
        size_rule: SizeRule,
        protocol: Protocol,
        rule: ScoreRule,
        templates: str,
        background: str,
        text: TextOptions | None = None,
        options: Mapping[str, Any] | None = None,
        weights: Weights | None = None,
    ) -> None:
        """Put the parts together; a Detectron2 config is accepted in their place.

        Args:
            clip: Which reads the words; its image part is not used.
            masks: See `Masks`.
            size_rule: How large windows are cut from a photograph.
            protocol: Windows and refinement.
            rule: Thresholds.
            templates: Name of the template set.
            background: The background policy.
            text: How the texts of a vocabulary are engineered.
            options: Of the config that make results, for the record.
            weights: Of the projection, in the authors' layout or ours; None leaves it untrained.

        Raises:
            ConfigError: Texts are to be engineered by a rule of unit vectors, which these are not.
            WeightsError: The weights do not fit.
        """
        if on := next((name for name in _ENGINEERED if text is not None and getattr(text, name)), ""):
            raise ConfigError(
                f"Talk2DINO takes the texts of CLIP at their own lengths, which {on} changes; leave MODEL.TEXT."
                f"{on.upper()} out (kinds of a class can be names of it, as in 'cat|lion|tiger')"
            )
        super().__init__(
            clip=clip,
            recalibration=masks,
            size_rule=size_rule,
            protocol=protocol,
            rule=rule,
            templates=templates,
            background=background,
            text=text,
        )
        self.own_options, self.training_state = dict(options or {}), weights.training if weights else ""
        if weights is not None:
            fill(self, masks.projection, weights)
        self.refresh_hash()

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Build the parts that a config names; ``MODEL.WEIGHTS`` is a head of the authors or one of ours.

        Raises:
            WeightsError: The checkpoint is missing, does not fit, or was taught with something else.
        """
        if not cfg.MODEL.WEIGHTS:
            return cls.parts(cfg, None)
        weights = Weights.read(cfg.MODEL.WEIGHTS)
        parts = cls.parts(cfg, weights)
        if taught := read_taught(cfg.MODEL.WEIGHTS):
            masks = parts["masks"]
            taught.check(masks.activation, parts["clip"].weights_hash, masks.backbone, weights.source)
        return parts

    @classmethod
    def parts(cls, cfg: CfgNode, weights: Weights | None) -> dict[str, Any]:
        """Build the parts that a config names, with a projection that has as many layers as the weights."""
        section = Section(cls, cfg)
        clip = load_tower(ClipSource.of(cfg.MODEL.CLIP), (), cls.__name__)
        masks = section.make("masks", clip, weights and weights.state)
        parts = {"clip": clip, "masks": masks, "size_rule": view_of(cfg, clip), "weights": weights}
        return {**cls.around(cfg), **parts, "options": section.of_results, **section.own}

    @classmethod
    def beside(cls, cfg: CfgNode) -> tuple[str, ...]:
        """Return the backbone, as a guide; see `Sectioned.beside`."""
        return (f"timm:{Section(cls, cfg).options['backbone']}",)

    @classmethod
    def check_head(cls, cfg: CfgNode, weights: Weights) -> None:
        """Check that a head fits the CLIP and the backbone of a config, without the weights of these.

        Raises:
            WeightsError: It does not; says why.
        """
        layer = read_projection(weights.state, weights.source).linear_layer
        wanted = (int(architecture(cfg.MODEL.CLIP.ARCH)["embed_dim"]), width_of(Section(cls, cfg).options["backbone"]))
        if (layer.in_features, layer.out_features) != wanted:
            raise WeightsError(
                f"{weights.source} goes from {layer.in_features} to {layer.out_features} channels; expected "
                f"{wanted[0]} and {wanted[1]}: is it for another CLIP or backbone?"
            )

    @property
    def scores_stand_alone(self) -> bool:
        """Whether scores are the sigmoids themselves; see `WordedModel.scores_stand_alone`."""
        return not self.rule.softmax

    @property
    def settings(self) -> dict[str, Any]:
        """What makes results besides the weights and the words, as JSON values; recorded in every result."""
        state = {"training": self.training_state} if self.training_state else {}
        return {**super().settings, "options": self.own_options, **state}

    def lower_trunk(self, dtype: torch.dtype) -> None:
        """Keep the products of the backbone in a lower precision."""
        lower_products(list(self.get_submodule("recalibration.backbone.blocks").children()), dtype)
        self.clip.precision = dtype

    def losses(self, batched_inputs: Sequence[dict[str, Any]], words: Words) -> dict[str, Tensor]:
        """Refuse labelled images: captions teach it.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(
            "Talk2DINO learns from captions and not from labels; see tools/train_talk2dino.py of the repository"
        )
