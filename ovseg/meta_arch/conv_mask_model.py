"""What FC-CLIP and MAFT+ share: a CLIP with levels, most often convolutional, a pixel and a masked decoder on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import Tensor, nn

from ovseg.checkpoint.loading import Weights
from ovseg.clip.base import BaseClip
from ovseg.clip.conv_clip import STRIDE, ConvClip
from ovseg.clip.vit_levels import VitClip
from ovseg.errors import ConfigError
from ovseg.losses.criterion import SetCriterion
from ovseg.losses.matcher import LossWeights, Prediction
from ovseg.losses.points import Draw, uniform_points
from ovseg.meta_arch.mask_model import MaskModel, SizeRule, read_targets
from ovseg.meta_arch.mask_results import MaskRule, object_results
from ovseg.proposals.classifier import class_logits, class_scale
from ovseg.proposals.masked_decoder import MaskedDecoder, Proposals
from ovseg.proposals.pixel_decoder import PixelDecoder
from ovseg.vocabulary import TextOptions

Clip = TypeVar("Clip", bound=BaseClip)


class ConvMaskModel(MaskModel):
    """Proposes masks on the levels of a convolutional CLIP and names them; how, a model of this kind says itself.

    Attributes:
        clip: The CLIP, frozen unless a model says otherwise.
        pixel_decoder, decoder: The head.
        void: Embedding of "no object", which stands behind the texts.
        rule: What is made of the masks.
        criterion: The losses of training.
    """

    head: ClassVar[tuple[str, ...]] = ("pixel_decoder.", "decoder.", "void.")
    size_divisibility = STRIDE

    def __init__(
        self,
        *,
        clip: ConvClip | VitClip,
        pixel_decoder: PixelDecoder,
        decoder: MaskedDecoder,
        protocol: SizeRule,
        rule: MaskRule,
        criterion: SetCriterion,
        templates: str,
        background: str,
        text: TextOptions | None = None,
    ) -> None:
        """Put the parts together.

        Raises:
            ConfigError: The texts are to be engineered for each image, which masks have no place for.
        """
        super().__init__(clip, templates, background, text)
        if self.text.autoclip:
            raise ConfigError(f"AutoCLIP weighs texts for patches, but {type(self).__name__} has masks; set it to 0")
        self.pixel_decoder, self.decoder = pixel_decoder, decoder
        self.void = nn.Embedding(1, clip.embed_dim)
        self.protocol, self.rule, self.criterion = protocol, rule, criterion

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Build the parts that a config names; ``MODEL.WEIGHTS`` is a released checkpoint or one of ours.

        Raises:
            WeightsError: The checkpoint is missing or does not fit.
        """
        return cls.parts(cfg, Weights.read(cfg.MODEL.WEIGHTS) if cfg.MODEL.WEIGHTS else None)

    @staticmethod
    def parts(cfg: CfgNode, weights: Weights | None) -> dict[str, Any]:
        """Build the parts that a config names, with CLIP from the checkpoint if it brings one along."""
        raise NotImplementedError

    @property
    def patch_size(self) -> int:
        """Side in pixels of what one vector of the coarsest level sees: the smallest image."""
        return STRIDE

    def network(self, images: Tensor) -> tuple[dict[str, Tensor], Proposals]:
        """Return the levels of CLIP and the proposals of the last layer; see `MaskModel.network`."""
        with self.autocast():
            levels = self.clip.levels(images)
        if self.precision != torch.float32:
            levels = {name: level.float() for name, level in levels.items()}
        return levels, self.propose(levels)[-1]

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]] | dict[str, Tensor]:
        """Segment images, or in training return losses.

        Args:
            batched_inputs: Detectron2's format: ``image`` (3, h, w) RGB in 0..255, and ``height``, ``width`` of the
                result (default: the image's own); in training ``instances`` or ``sem_seg``, see `targets`.

        Returns:
            For each image what `semantic` and `ovseg.meta_arch.mask_results.object_results` give; instances, like
            ``sem_seg``, only with `full_scores`, for both hold a map a piece. In training the losses, to be added up.

        Raises:
            ConfigError: No vocabulary has been set.
        """
        self.check_vocabulary()
        if self.training:
            return self.losses(batched_inputs)
        with torch.inference_mode():
            return self._segment(batched_inputs)

    def propose(self, levels: dict[str, Tensor], every: bool = False) -> list[Proposals]:
        """Run the head on the levels of the CLIP; with ``every`` get those of all layers, the final one last."""
        mask_features, scales = self.pixel_decoder(levels)
        return self.decoder(scales, mask_features, every)

    def rows(self) -> Tensor:
        """Return the texts and, behind them, "no object" (T + 1, D), all of unit length."""
        void = F.normalize(self.void.weight, dim=-1)
        return torch.cat([self.check_vocabulary().embeddings.to(void), void])

    def trained_logits(self, proposals: Proposals) -> Tensor:
        """Return the logits (B, Q, K + 1) of the trained classifier, "no object" last."""
        scale = class_scale(self.decoder.log_scale)
        return class_logits(proposals.embeddings, self.rows(), scale, self.columns()[0], void=True)

    def class_scores(self, levels: dict[str, Tensor], proposals: Proposals, trained: Tensor) -> Tensor:
        """Return what masks show.

        Args:
            levels: Those of the CLIP.
            proposals: Of B images and Q queries.
            trained: What `trained_logits` says of them.

        Returns:
            Logarithms of probabilities (B, Q, K + 1), "no object" last.
        """
        raise NotImplementedError

    def losses(self, batched_inputs: Sequence[dict[str, Any]], draw: Draw = uniform_points) -> dict[str, Tensor]:
        """Return the weighted losses of a batch; ``draw`` gives the random points."""
        images = self.batch(batched_inputs).images
        return self.criterion(self.stages(self.clip.levels(images)), read_targets(batched_inputs, images), draw)

    def stages(self, levels: dict[str, Tensor]) -> list[Prediction]:
        """Return what every layer of the head predicts on the levels of the CLIP, the final one last."""
        return [Prediction(self.trained_logits(p), p.masks) for p in self.propose(levels, every=True)]

    def _segment(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        batch = self.batch(batched_inputs)
        levels, proposals = self.network(batch.images)
        scores = self.class_scores(levels, proposals, self.trained_logits(proposals))
        assert self.vocabulary is not None
        _, classes = self.columns()
        things = [entry.is_thing for entry in self.vocabulary]
        rule = replace(self.rule, instances=self.rule.instances and self.full_scores)
        found = []
        for index, (own, masks) in enumerate(zip(scores.softmax(-1), proposals.masks, strict=True)):
            # As in the originals: maps of classes are resized, unless anything but labels is wanted.
            resize = self.resize(batch, index, masks, sigmoid_first=not self.rule.objects)
            objects = object_results(own, masks, resize, rule, classes, things)
            found.append({**self.semantic(own, masks, resize), **objects})
        return found


def read_clip(kind: type[Clip], source: CfgNode, empty: bool = False) -> Clip:
    """Read the CLIP that ``MODEL.CLIP`` names; with ``empty`` one that is named is built without weights."""
    if source.FOLDER:
        return kind.from_folder(source.FOLDER)
    return kind.empty(source.ARCH) if empty else kind.load(source.ARCH, source.PRETRAINED)


def conv_parts(cfg: CfgNode, node: CfgNode, clip: ConvClip | VitClip) -> dict[str, Any]:
    """Build what a config says of the parts that all models of this kind have.

    Args:
        cfg: The whole config.
        node: The part of it with the values of the head (see `ovseg.config.query_head`).
        clip: What the head is built for.
    """
    shares = LossWeights(*node.LOSS_WEIGHTS)
    return {
        "clip": clip,
        "pixel_decoder": PixelDecoder(clip.channels, node.DIM, node.HEADS, node.ENCODER_FFN, node.ENCODER_LAYERS),
        "decoder": MaskedDecoder(
            clip.embed_dim, node.DIM, node.QUERIES, node.HEADS, node.DECODER_FFN, node.DECODER_LAYERS
        ),
        "protocol": SizeRule.from_config(cfg),
        "rule": MaskRule(
            panoptic=node.PANOPTIC,
            instances=node.INSTANCES,
            object_threshold=node.OBJECT_THRESHOLD,
            overlap_threshold=node.OVERLAP_THRESHOLD,
            top_k=cfg.TEST.DETECTIONS_PER_IMAGE,
        ),
        "criterion": SetCriterion(node.POINTS, void_weight=node.VOID_WEIGHT, weights=shares, costs=shares),
        "templates": cfg.MODEL.TEXT.TEMPLATES,
        "background": cfg.MODEL.TEXT.BACKGROUND,
        "text": TextOptions.from_config(cfg.MODEL.TEXT),
    }
