"""SED: cost maps of a ConvNeXt CLIP in 80 templates, decoded in three stages with CLIP's own levels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from ovseg.aggregation.checks import all_at_least, check_pooling
from ovseg.aggregation.cost import nearness
from ovseg.checkpoint.loading import Weights
from ovseg.clip import ClipSource, Tower, load_tower
from ovseg.clip.conv_clip import STRIDE, convnext_of
from ovseg.clip.tokens import LEVELS
from ovseg.contract import Words
from ovseg.data.preprocessing import SizeRule
from ovseg.errors import ConfigError, one_of
from ovseg.labelling.row_maps import RowMaps, WholeMaps
from ovseg.labelling.sliding import resize
from ovseg.losses.class_maps import ClassMapCriterion
from ovseg.losses.matcher import Target
from ovseg.meta_arch.cost_model import NAMES, CostModel
from ovseg.meta_arch.counted import MEAN, check_prompts, with_means
from ovseg.meta_arch.mask_model import read_targets
from ovseg.meta_arch.section import Section
from ovseg.meta_arch.sed.decoder import Decoder, View
from ovseg.meta_arch.sed.weights import OFFICIAL
from ovseg.meta_arch.trained_model import size_rule
from ovseg.vocabulary import Background, Vocabulary

TUNED = ("visual", "none")


@META_ARCH_REGISTRY.register()
class SED(CostModel):
    """SED (Xie et al., CVPR 2024, arXiv 2311.15537; github.com/xb534/SED).

    Trained are the decoder and CLIP's whole image tower; what leads the decoder gives no gradient to CLIP.
    """

    head = ("decoder.", "clip.model.visual.")
    templates_apart = True
    cut = "for early rejection found them nowhere among the best (FAST, TOP)"
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
        if resolution < STRIDE or resolution % STRIDE:
            raise ConfigError(f"resolution is {resolution}; expected a multiple of {STRIDE}")
        all_at_least(1, size_divisibility=size_divisibility)
        first: Any = decoder.stages[0]
        pooling, train_pooling = first.classes.poolings
        check_pooling((resolution // STRIDE, resolution // STRIDE), pooling=pooling, train_pooling=train_pooling)
        self.decoder, self.criterion, self.size_rule = decoder, criterion, size_rule
        self.resolution, self.size_divisibility = (resolution, resolution), size_divisibility
        self.names = one_of("names", names, (MEAN, *NAMES))
        convnext_of(clip, "SED")
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
            **cls.settings_of(cfg, section, weights),
        }

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
        check_prompts(templates or self.default_templates, self.decoder.prompts)
        found = super().words(vocabulary, background, templates)
        return with_means(found) if self.names == MEAN else found

    def see(self, images: Tensor) -> list[View]:
        """Encode images, each as a whole and squeezed to a square; see `WordedModel.see`."""
        found = self.run_network(self.views(self.normalise(images)))
        return [View(*own) for own in zip(*found, strict=True)]

    def views(self, images: Tensor) -> Tensor:
        """Return what CLIP sees (B, 3, r, r) of normalised images (B, 3, h, w)."""
        return resize(images, self.resolution)

    def network(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the fields of `View` for normalised images (B, 3, r, r); see `WordedModel.network`."""
        with self.clip.autocast():
            levels = self.clip.levels(images)
        levels = {name: level.to(images) for name, level in levels.items()}
        return tuple(self.decoder.look(self.embed(levels["dense"]), {n: own.detach() for n, own in levels.items()}))

    def embed(self, dense: Tensor) -> Tensor:
        """Bring every place of CLIP's last level (B, C, h, w) to the joint space: (B, D, h, w)."""
        found = convnext_of(self.clip, "SED").embed(dense.flatten(2).mT)
        return found.mT.unflatten(2, dense.shape[2:])

    def maps(self, seen: View, words: Words) -> RowMaps:
        """Decode the maps of all words, or of those that come through; see `CostModel.maps`."""
        found = self.decoder(seen, words.embeddings.to(seen.features))
        return WholeMaps(found.maps.float().sigmoid(), found.classes)

    def losses(self, batched_inputs: Sequence[dict[str, Any]], words: Words) -> dict[str, Tensor]:
        """Return the losses of a batch: ``loss_sem_seg_0`` of the result, 1 to 3 of the heads before the stages."""
        images = self.training_batch(batched_inputs)
        rows = with_means(words).embeddings[: len(words.vocabulary)]  # a class is one row, whatever NAMES says
        return self.compare(images, read_targets(batched_inputs, images), rows)

    def compare(self, images: Tensor, targets: Sequence[Target], rows: Tensor) -> dict[str, Tensor]:
        """Return the losses of padded images (B, 3, H, W) with what they show, by texts (K, P, D) of all classes.

        Raises:
            ConfigError: An image shows a class that is not among the K.
        """
        views = [View(*own) for own in zip(*self.network(self.views(images)), strict=True)]
        chosen = self.criterion.choose(
            lambda i: nearness(views[i].features, rows.mean(1, keepdim=True)), len(rows), targets
        )
        texts = [(rows if own is None else rows[own]).to(images) for own in chosen]
        found = [self.decoder(*own) for own in zip(views, texts, strict=True)]
        stages = [[one.maps for one in found], *([one.early[i] for one in found] for i in range(len(found[0].early)))]
        questions = self.criterion.questions(targets, chosen, len(rows))
        return {f"loss_sem_seg_{i}": self.criterion(own, questions) for i, own in enumerate(stages)}
