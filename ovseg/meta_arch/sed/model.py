"""SED: cost maps of a ConvNeXt CLIP in 80 templates, decoded in three stages with CLIP's own levels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from ovseg.checkpoint.loading import Weights
from ovseg.clip import ClipSource, Tower, load_tower
from ovseg.clip.conv_clip import STRIDE, ConvClip
from ovseg.clip.convnext import ConvNeXtTower
from ovseg.clip.tokens import LEVELS
from ovseg.contract import Words
from ovseg.data.preprocessing import SizeRule
from ovseg.errors import ConfigError, one_of
from ovseg.labelling.row_maps import RowMaps, WholeMaps
from ovseg.losses.class_maps import ClassMapCriterion
from ovseg.losses.matcher import Target
from ovseg.meta_arch.cost_model import NAMES, CostModel
from ovseg.meta_arch.mask_model import read_targets
from ovseg.meta_arch.section import Section
from ovseg.meta_arch.sed.decoder import Decoder, View
from ovseg.meta_arch.sed.weights import OFFICIAL
from ovseg.meta_arch.trained_model import size_rule
from ovseg.vocabulary import Background, TextOptions, Vocabulary
from ovseg.vocabulary.templates import TEMPLATES, check_templates

TUNED = ("visual", "none")


@META_ARCH_REGISTRY.register()
class SED(CostModel):
    """SED (Xie et al., CVPR 2024, arXiv 2311.15537; github.com/xb534/SED).

    Trained are the decoder and CLIP's whole image tower; what leads the decoder gives no gradient to CLIP.
    """

    head = ("decoder.", "clip.model.visual.")
    templates_apart = True
    made_of = {"decoder": Decoder, "criterion": ClassMapCriterion}  # noqa: RUF012

    @configurable
    def __init__(
        self,
        clip: Tower,
        decoder: Decoder,
        criterion: ClassMapCriterion,
        size_rule: SizeRule,
        weights: Weights | None = None,
        *,
        resolution: int = 768,
        size_divisibility: int = 32,
        names: str = "mean",
        tuned: str = "visual",
        **parts: Any,
    ) -> None:
        """Put the parts together; a Detectron2 config is accepted in their place.

        Args:
            clip: With a ConvNeXt.
            decoder: Makes logits of the cost maps.
            criterion: The loss of training.
            size_rule: How large the network sees a photograph.
            weights: In the layout of the released ones, or ours; None leaves the decoder untrained.
            resolution: Side in pixels of the square to which images are squeezed.
            size_divisibility: In training images are padded to multiples of so many pixels before.
            names: Which names of a class count: their ``mean`` in each template, as the original has it, ``all``, the
                best one, or the ``first`` alone.
            tuned: What of CLIP is trained: its image tower (``visual``), or ``none`` of it.
            parts: Those of `TrainedModel`.

        Raises:
            ConfigError: An option does not fit the CLIP.
            WeightsError: The weights do not fit.
        """
        super().__init__(clip, **parts)
        if resolution % STRIDE:
            raise ConfigError(f"resolution is {resolution}; expected a multiple of {STRIDE}")
        self.decoder, self.criterion, self.size_rule = decoder, criterion, size_rule
        self.resolution, self.size_divisibility = (resolution, resolution), size_divisibility
        self.names = one_of("names", names, ("mean", *NAMES))
        _convnext(clip)
        for name, weight in clip.named_parameters():
            weight.requires_grad_(name.startswith("model.visual.") and one_of("tuned", tuned, TUNED) == "visual")
        self.fill(weights, OFFICIAL)

    @classmethod
    def parts(cls, cfg: CfgNode, weights: Weights | None) -> dict[str, Any]:
        """Build the parts that a config names; see `TrainedModel.parts`."""
        section = Section(cls, cfg)
        clip = load_tower(ClipSource.of(cfg.MODEL.CLIP), {LEVELS}, "SED", empty=OFFICIAL.holds_clip(weights))
        return {
            "clip": clip,
            "decoder": section.make("decoder", clip.embed_dim, clip.channels),
            "criterion": section.make("criterion"),
            "size_rule": size_rule(cfg, STRIDE, "SED"),
            "templates": cfg.MODEL.TEXT.TEMPLATES,
            "background": cfg.MODEL.TEXT.BACKGROUND,
            "text": TextOptions.from_config(cfg.MODEL.TEXT),
            "options": section.of_results,
            "weights": weights,
            **section.own,
        }

    def is_own(self, key: str) -> bool:
        """Tell by its name whether a weight is not CLIP's; what is tuned of CLIP is in the hash of CLIP."""
        return not key.startswith("clip.model.")

    def words(
        self,
        vocabulary: Vocabulary,
        background: str | Background | Iterable[str] | None = None,
        templates: str | None = None,
    ) -> Words:
        """Embed the words of a request, every template by itself (T, M, D); see `WordedModel.words`.

        Raises:
            ConfigError: There are not as many templates as the weights were trained with.
        """
        chosen = templates or self.default_templates
        if (count := len(TEMPLATES[check_templates(chosen)])) != self.decoder.prompts:
            raise ConfigError(
                f"the {count} templates of '{chosen}' do not fit: each is a channel of this model, which has "
                f"{self.decoder.prompts}; leave templates out"
            )
        found = super().words(vocabulary, background, templates)
        return found if self.names != "mean" else _with_means(found)

    def see(self, images: Tensor) -> list[View]:
        """Encode images, each as a whole and squeezed to a square; see `WordedModel.see`."""
        found = self.run_network(squeeze(self.normalise(images), self.resolution))
        return [View(*own) for own in zip(*found, strict=True)]

    def network(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the fields of `View` for normalised images (B, 3, r, r); see `WordedModel.network`."""
        with self.clip.autocast():
            levels = self.clip.levels(images)
        levels = {name: level.to(images) for name, level in levels.items()}
        return tuple(self.decoder.look(self.embed(levels["dense"]), {n: own.detach() for n, own in levels.items()}))

    def embed(self, dense: Tensor) -> Tensor:
        """Bring every place of CLIP's last level (B, C, h, w) to the joint space: (B, D, h, w)."""
        found = _convnext(self.clip).embed(dense.flatten(2).mT)
        return found.mT.unflatten(2, dense.shape[2:])

    def maps(self, seen: View, words: Words) -> RowMaps:
        """Decode the maps of all words, or of those that come through; see `CostModel.maps`."""
        found = self.decoder(seen, words.embeddings.to(seen.features))
        return WholeMaps(found.maps.float().sigmoid(), found.classes)

    def losses(self, batched_inputs: Sequence[dict[str, Any]], words: Words) -> dict[str, Tensor]:
        """Return the losses of a batch: ``loss_sem_seg_0`` of the result, 1 to 3 of the heads before the stages."""
        images = self.training_batch(batched_inputs)
        rows = words.embeddings[words.query_to_class.to(words.embeddings.device) >= 0]
        return self.compare(images, read_targets(batched_inputs, images), rows)

    def compare(self, images: Tensor, targets: Sequence[Target], rows: Tensor) -> dict[str, Tensor]:
        """Return the losses of padded images (B, 3, H, W) with what they show, by texts (K, P, D) of all classes."""
        views = [View(*own) for own in zip(*self.network(squeeze(images, self.resolution)), strict=True)]
        near = [_near(view.features.detach(), rows) for view in views]
        chosen = [self.criterion.choose(*own) for own in zip(near, targets, strict=True)]
        texts = [(rows if own is None else rows[own]).to(images) for own in chosen]
        found = [self.decoder(*own) for own in zip(views, texts, strict=True)]
        stages = [[one.maps for one in found], *([one.early[i] for one in found] for i in range(len(found[0].early)))]
        return {f"loss_sem_seg_{i}": self.criterion(own, targets, chosen) for i, own in enumerate(stages)}


def _with_means(words: Words) -> Words:
    """Return words in which each class has one row in each template, the mean of its names', and its first name."""
    classes = words.query_to_class.tolist()
    groups = [[i for i, own in enumerate(classes) if own == k] for k in range(len(words.vocabulary))]
    groups += [[i] for i, own in enumerate(classes) if own < 0]
    rows = torch.stack([F.normalize(words.embeddings[own].mean(0), dim=-1) for own in groups])
    own_classes = words.query_to_class[[own[0] for own in groups]]
    texts = tuple(words.texts[own[0]] for own in groups)
    return replace(words, embeddings=rows, query_to_class=own_classes, texts=texts)


def _near(features: Tensor, rows: Tensor) -> Tensor:
    """Return the largest cosine (K,) of each class's mean text (K, P, D) in features (D, h, w)."""
    texts = F.normalize(rows.mean(1), dim=-1).to(features)
    return (texts @ F.normalize(features, dim=0).flatten(1)).amax(1)


def squeeze(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize images (B, 3, h, w) bilinearly without a filter, as the original does."""
    if tuple(images.shape[-2:]) == size:
        return images
    return F.interpolate(images, size, mode="bilinear", align_corners=False)


def _convnext(clip: Any) -> ConvNeXtTower:
    """Return the image tower of a CLIP, which has to be a ConvNeXt."""
    if not (isinstance(clip, ConvClip) and isinstance(clip.tower, ConvNeXtTower)):
        raise ConfigError(f"SED embeds places as a ConvNeXt does, which {clip.name} is not; use a ConvNeXt")
    return clip.tower
