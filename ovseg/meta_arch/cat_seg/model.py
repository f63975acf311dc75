"""CAT-Seg: cost maps of every word, refined by a light transformer and led by a CLIP whose attention is tuned."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn

from ovseg.aggregation.checks import all_at_least
from ovseg.aggregation.cost import nearness
from ovseg.checkpoint.loading import Weights
from ovseg.clip import ClipSource, Tower, ViTClip, load_tower
from ovseg.clip.features import Need
from ovseg.clip.open_clip_vit import OpenClipBlock, split_weights
from ovseg.clip.tokens import CLASS_EMBEDDING, DENSE, STREAM, Block
from ovseg.contract import Words
from ovseg.data.preprocessing import SizeRule
from ovseg.errors import ConfigError, one_of
from ovseg.labelling.row_maps import RowMaps, WholeMaps
from ovseg.labelling.sliding import Logits, Sliding, SlidingMaps, plan_views, resize
from ovseg.losses.class_maps import ClassMapCriterion
from ovseg.losses.matcher import Target
from ovseg.meta_arch.cat_seg.aggregator import Aggregator, View
from ovseg.meta_arch.cat_seg.decoder import Decoder
from ovseg.meta_arch.cat_seg.weights import OFFICIAL
from ovseg.meta_arch.cost_model import NAMES, CostModel, first_names
from ovseg.meta_arch.mask_model import read_targets
from ovseg.meta_arch.section import Section, lower_keys
from ovseg.meta_arch.trained_model import size_rule
from ovseg.recalibration import RECALIBRATIONS, Recalibration
from ovseg.system.progress import report
from ovseg.system.registry import build
from ovseg.vocabulary import TextOptions
from ovseg.vocabulary.templates import fill, resolve_templates

NEEDS = frozenset({DENSE, STREAM, CLASS_EMBEDDING})
TUNED = ("attention", "full", "none")
VIEWS_PER_PASS = 16

log = logging.getLogger("ovseg.train")


@META_ARCH_REGISTRY.register()
class CATSeg(CostModel):
    """CAT-Seg (Cho et al., CVPR 2024, arXiv 2303.11797; github.com/cvlab-kaist/CAT-Seg).

    Trained are the aggregator, the two upsampled maps of CLIP's middle blocks and, of the attention of CLIP's image and
    text tower, the weights of queries and values.
    """

    head = ("aggregator.", "upsample.", "clip.model.")
    cut = "for they are among the nearest of none of its views (MOST)"
    made_of = {"aggregator": Aggregator, "decoder": Decoder, "sliding": plan_views, "criterion": ClassMapCriterion}  # noqa: RUF012

    @configurable
    def __init__(
        self,
        clip: Tower,
        aggregator: Aggregator,
        sliding: Sliding | None,
        criterion: ClassMapCriterion,
        size_rule: SizeRule,
        weights: Weights | None = None,
        recalibration: Recalibration | None = None,
        *,
        resolution: int = 384,
        taps: tuple[int, ...] = (3, 7),
        size_divisibility: int = 32,
        padding_stays: bool = False,
        names: str = "all",
        tuned: str = "attention",
        **parts: Any,
    ) -> None:
        """Put the parts together; a Detectron2 config is accepted in their place.

        Args:
            clip: With a vision transformer of open_clip's own; its weights are those that are tuned.
            aggregator: Refines the cost maps.
            sliding: The windows of images; None sees each as a whole.
            criterion: The loss of training.
            size_rule: How large the network sees a photograph.
            weights: In the layout of the released ones, or ours; None leaves the aggregator untrained.
            recalibration: Makes CLIP's dense features by ``MODEL.RECALIBRATION`` (ours, and not the paper's); None for
                the last block as the original has it.
            resolution: Side in pixels of the square to which CLIP's image is squeezed.
            taps: Blocks, from 0, behind which CLIP's tokens lead the upsampling.
            size_divisibility: In training images are padded to multiples of so many pixels before they are squeezed.
            padding_stays: Whether images that are seen whole are padded so in answers, too, and the map of all that is
                stretched over the image, which shifts it, as the original does without windows; else nothing is padded.
            names: Which names of a class count: ``all``, the best one, or the ``first`` alone, as the original has it.
            tuned: What of CLIP is trained: ``attention``, both transformers in ``full``, or ``none`` of it.
            parts: Those of `TrainedModel`.

        Raises:
            ConfigError: An option does not fit the CLIP.
            WeightsError: The weights do not fit.
        """
        clip.check(NEEDS, "CAT-Seg")
        super().__init__(clip, **parts)
        self.aggregator, self.sliding, self.size_rule, self.taps = aggregator, sliding, size_rule, taps
        self.recalibration = None if recalibration is None else recalibration.requires_grad_(False)
        self.not_compiled = "" if recalibration is None else recalibration.why_not_compiled()
        self.resolution = _checked(clip, resolution, aggregator)
        _check_taps(clip, taps, clip.handed_over(recalibration) or 1)
        all_at_least(1, size_divisibility=size_divisibility)
        self.size_divisibility, self.padding_stays = size_divisibility, padding_stays
        self.criterion, self.names, self.most = criterion, one_of("names", names, NAMES), aggregator.most
        self.upsample = nn.ModuleList(
            nn.ConvTranspose2d(clip.width, out, side, side)
            for out, side in zip(aggregator.decoder.tapped, (2, 4), strict=True)
        )
        split_weights(_own_vit(clip).model)
        _tune(_own_vit(clip).model, one_of("tuned", tuned, TUNED))
        _own_vit(clip).refresh()
        self.fill(weights, OFFICIAL)

    @classmethod
    def parts(cls, cfg: CfgNode, weights: Weights | None) -> dict[str, Any]:
        """Build the parts that a config names; see `TrainedModel.parts`."""
        section = Section(cls, cfg)
        clip = load_tower(ClipSource.of(cfg.MODEL.CLIP), NEEDS, "CAT-Seg", empty=OFFICIAL.holds_clip(weights))
        all_at_least(clip.patch_size, resolution=section.options["resolution"])
        side = section.options["resolution"] // clip.patch_size
        return {
            "clip": clip,
            "aggregator": section.make("aggregator", clip.embed_dim, (side, side), section.make("decoder")),
            "sliding": section.make("sliding"),
            "criterion": section.make("criterion"),
            "size_rule": size_rule(cfg, clip.patch_size, "CAT-Seg"),
            "recalibration": _recalibration(cfg.MODEL.RECALIBRATION),
            **cls.settings_of(cfg, section, weights),
        }

    @property
    def settings(self) -> dict[str, Any]:
        """What makes results besides the weights and the words, as JSON values; recorded in every result."""
        method = self.recalibration
        own = {} if method is None else {"recalibration": method.name, "recalibration_options": method.options}
        return {**super().settings, **own}

    def see(self, images: Tensor) -> list[View]:
        """Encode all views of images; see `WordedModel.see`. Views of an image stand first in its tensors."""
        views = self.views(self.normalise(images))
        count, passed = len(views) // len(images), []
        for part in views.split(VIEWS_PER_PASS):
            passed.append(View(*self.run_network(part)))
            report("windows", sum(len(one.features) for one in passed), len(views))
        whole = [torch.cat(parts) for parts in zip(*passed, strict=True)]
        return [View(*own) for own in zip(*(part.split(count) for part in whole), strict=True)]

    def views(self, images: Tensor) -> Tensor:
        """Return what CLIP sees (B * V, 3, r, r) of normalised images (B, 3, h, w), images outermost."""
        if self.sliding is not None:
            return self.sliding.cut(images, self.resolution)
        return resize(self.padded(list(images)) if self.padding_stays else images, self.resolution)

    def network(self, views: Tensor) -> tuple[Tensor, ...]:
        """Return the fields of `View` for normalised views (V, 3, r, r); see `WordedModel.network`."""
        features, *taps = self.look(views)
        return tuple(self.aggregator.look(features, *(up(tap) for up, tap in zip(self.upsample, taps, strict=True))))

    def look(self, views: Tensor) -> list[Tensor]:
        """Return CLIP's dense features (V, D, h, w) of views, not of unit length, and tapped tokens (V, C, h, w)."""
        clip, kept = self.clip, {}
        if self.recalibration is not None:
            with clip.autocast():
                seen = clip.dense(views, self.recalibration, Need(hidden=self.taps))
            taps = [seen.context.lay_out(seen.context.hidden[index]) for index in self.taps]
            return [one.to(views) for one in (seen.features, *taps)]
        tokens, grid = clip.embed(views, "bicubic")
        *blocks, last = clip.blocks_on(grid)
        with clip.autocast():
            for index, block in enumerate(blocks):
                tokens = block(tokens)
                if index in self.taps:
                    kept[index] = clip.split(tokens)[1]
            dense = self.keep_values(clip, last, tokens)
        features = clip.split(clip.patches_to_joint(dense.to(views)))[1]
        found = [features, *(kept[index].to(views) for index in self.taps)]
        return [one.mT.unflatten(2, grid) for one in found]

    @staticmethod
    def keep_values(clip: Tower, last: Block, tokens: Tensor) -> Tensor:
        """Run the last block on tokens (V, N, C) so that each keeps its own value, and looks at no other.

        Each goes on from the class token that entered the block, not from itself; released weights were trained so.
        """
        dense = clip.class_and_rest(tokens)[0] + last.project(last.qkv(tokens)[2])
        return dense + last.feed_forward(dense)

    def maps(self, seen: View, words: Words) -> RowMaps:
        """Compare every view with every word; see `CostModel.maps`."""
        texts = words.embeddings[:, None]
        found = [self.aggregator(View(*own), texts) for own in zip(*seen, strict=True)]
        found = [Logits(view.maps.float(), view.classes) for view in found]
        if self.sliding is not None:
            return SlidingMaps(self.sliding, found, len(texts))
        return WholeMaps(found[0].maps.sigmoid(), found[0].classes)

    @classmethod
    def check_training(cls, cfg: CfgNode) -> None:
        """Refuse texts that a training does not learn by, see `check_text`."""
        check_text(cfg.MODEL.TEXT.TEMPLATES, TextOptions.from_config(cfg.MODEL.TEXT))

    def start_training(self, words: Words) -> None:
        """Bring the text tower back to where it learns, before an optimizer is made or filled; see `WordedModel`.

        A line of the log says where no step will have as few classes as are filled up: `FILL` learns nothing then.

        Raises:
            ConfigError: As `check_training`.
        """
        check_text(words.templates, self.text)
        count, fill = len(words.vocabulary), self.aggregator.fill
        least = min(self.criterion.count or count, count)
        if 0 < fill <= least:
            log.warning(
                f"lists of fewer than {fill} words are filled up with a learnt row (FILL: {fill}), which this training "
                f"does not reach, for each step has {least} classes or more: the row stays as it is, and answers by "
                f"short lists are made with it; set FILL: 0, or to more than {least}"
            )
        self.clip.move_text(self.clip.device)

    def losses(self, batched_inputs: Sequence[dict[str, Any]], words: Words) -> dict[str, Tensor]:
        """Return the loss of a batch, ``loss_sem_seg``; texts are embedded anew, for their tower learns, too."""
        images = self.training_batch(batched_inputs)
        targets = read_targets(batched_inputs, images)
        return self.compare(images, targets, self.class_rows(words))

    def class_rows(self, words: Words) -> Tensor:
        """Return the rows (K, D) of all classes by their first names in the one template, with gradients.

        They are not of unit length.

        Raises:
            ConfigError: The words are embedded in another way, see `check_text`.
        """
        template = check_text(words.templates, self.text)
        texts = [fill(template, name) for name in first_names(words.vocabulary)]
        clip = _own_vit(self.clip)
        return clip.learn_texts(clip.text_tokens(texts))

    def compare(self, images: Tensor, targets: Sequence[Target], rows: Tensor) -> dict[str, Tensor]:
        """Return the loss of padded images (B, 3, H, W) with what they show, by rows (K, D) of all classes.

        Raises:
            ConfigError: An image shows a class that is not among the K.
        """
        views, texts = self.predict(images), rows[:, None]
        chosen = self.criterion.choose(lambda i: nearness(views[i].features, texts), len(rows), targets)
        own = [texts if some is None else texts[some] for some in chosen]
        logits = [self.aggregator.compare(*one) for one in zip(views, own, strict=True)]
        return {"loss_sem_seg": self.criterion(logits, self.criterion.questions(targets, chosen, len(rows)))}

    def predict(self, images: Tensor) -> list[View]:
        """Return what a padded batch (B, 3, H, W) shows in training: whole images, squeezed."""
        found = self.network(resize(images, self.resolution))
        return [View(*own) for own in zip(*found, strict=True)]


def check_text(templates: str, options: TextOptions) -> str:
    """Return the one template that a training learns by.

    Raises:
        ConfigError: There are several, or texts are engineered, of which what is learnt would know nothing.
    """
    template, *more = resolve_templates(templates)
    if more:
        raise ConfigError(
            f"CAT-Seg learns by one template, and '{templates}' has {len(more) + 1}; set MODEL.TEXT.TEMPLATES to one "
            "such as cat_seg, simple or none"
        )
    if used := options.to_json():
        raise ConfigError(
            f"CAT-Seg learns by the names of classes as they are, and MODEL.TEXT.{next(iter(used)).upper()} changes "
            "their texts; leave it out, and give it to what was learnt"
        )
    return template


def _recalibration(node: CfgNode) -> Recalibration | None:
    """Build what makes dense features; plain CLIP stands for the last block as the original has it."""
    if node.NAME == "CLIP":
        return None
    return build(RECALIBRATIONS, node.NAME, lower_keys(node.OPTIONS, "MODEL.RECALIBRATION.OPTIONS"))


def _own_vit(clip: Any) -> ViTClip:
    """Return a CLIP whose image tower is open_clip's own, which alone has weights by the names that are tuned."""
    if not (isinstance(clip, ViTClip) and all(type(block) is OpenClipBlock for block in clip.blocks)):
        raise ConfigError(
            f"CAT-Seg tunes vision transformers of open_clip's own, which {clip.name} is not; use ViT-B-16"
        )
    return clip


def _checked(clip: Tower, resolution: int, aggregator: Aggregator) -> tuple[int, int]:
    """Refuse numbers that do not fit a CLIP; returns the size of what it sees."""
    if (prompts := aggregator.embed.in_channels) != 1:
        raise ConfigError(f"prompts is {prompts}; expected 1, for templates are averaged to one row a word here")
    side = resolution // clip.patch_size
    if resolution % clip.patch_size or aggregator.grid != (side, side):
        raise ConfigError(
            f"resolution is {resolution} with patches of {clip.patch_size} pixels, and the aggregator has a grid of "
            f"{aggregator.grid[0]} x {aggregator.grid[1]}; expected a multiple of the patch, and that grid"
        )
    return resolution, resolution


def _check_taps(clip: Tower, taps: Sequence[int], changed: int) -> None:
    """Refuse taps behind the blocks that run as they are, all but the last so many."""
    last = clip.depth - changed - 1
    if len(taps) != 2 or not all(0 <= tap <= last for tap in taps):
        raise ConfigError(f"taps are {list(taps)}; expected two blocks from 0 to {last} of {clip.name}")


def _tune(model: nn.Module, tuned: str) -> None:
    """Let the weights of a CLIP be trained that are tuned: of both transformers all, or those of queries and values."""
    for name, weight in model.named_parameters():
        inside = "transformer.resblocks." in name
        attention = name.endswith(("attn.q_proj_weight", "attn.v_proj_weight"))
        weight.requires_grad_(inside and (tuned == "full" or (tuned == "attention" and attention)))
