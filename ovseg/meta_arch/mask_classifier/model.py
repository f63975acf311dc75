"""A classifier of masks: any masks, any words. Masks come from a region generator, or with the request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from ovseg.checkpoint.loading import Official, Weights
from ovseg.clip import ClipSource, Tower, load_tower
from ovseg.clip.alpha import CHANNEL, fill, from_official, is_alpha
from ovseg.clip.mask_prompts import EMBEDDING, MaskPrompts
from ovseg.clip.tokens import DENSE
from ovseg.contract import INSTANCES, PANOPTIC, Answer, Encoded, Words, identity
from ovseg.data.preprocessing import SizeRule
from ovseg.errors import ConfigError, InputError, WeightsError, at_least
from ovseg.labelling.objects import MaskRule, object_results, semantic_results
from ovseg.meta_arch.mask_classifier.looks import Look
from ovseg.meta_arch.mask_classifier.masks import checked, find_parts, logits_of, of_ids, resized
from ovseg.meta_arch.mask_model import MaskModel
from ovseg.meta_arch.section import Section, lower_keys
from ovseg.meta_arch.trained_model import size_rule
from ovseg.proposals.classifier import class_logits
from ovseg.regions import REGIONS, RegionGenerator
from ovseg.system.device import to_device
from ovseg.system.registry import build
from ovseg.vocabulary import TextOptions

OFFICIAL = Official("MaskClassifier", "no tensor of others", str)


class Seen(NamedTuple):
    """Of an image: unit embeddings (Q, D) and logits (Q, h, w) of its masks, its own (D,), and the network's size."""

    embeddings: Tensor
    masks: Tensor
    whole: Tensor
    padded: tuple[int, int]


def make_look(clip: Tower, *, look: str = "cut", margins: tuple[float, ...] = ()) -> Look:
    """Make what shows masks to a CLIP; see `Look`. No margins are the look's own: 1 for alpha, 0.1 for crops."""
    return Look(clip, look, margins)


@META_ARCH_REGISTRY.register()
class MaskClassifier(MaskModel):
    """Names masks that come from elsewhere, by how a CLIP sees each of them.

    Looks: Alpha-CLIP (Sun et al., CVPR 2024, arXiv 2312.03818) or crops. Options are GC-CLIP's crops of several margins
    and names (arXiv 2309.06581), and BIRDet's backgrounds and parts (arXiv 2410.08645); both have no public code, and
    the forms here are ours.
    """

    head: ClassVar[tuple[str, ...]] = ("look.",)
    made_of: ClassVar[Mapping[str, Any]] = {
        "look": make_look,
        "rule": partial(MaskRule, panoptic=True, instances=True, object_threshold=0.0),
    }
    size_divisibility = 1
    needs_clip = True
    not_compiled = "how many masks an image has is known only when it is seen"

    @configurable
    def __init__(
        self,
        clip: Tower,
        look: Look,
        rule: MaskRule,
        regions: RegionGenerator,
        size_rule: SizeRule,
        templates: str,
        background: str,
        text: TextOptions | None = None,
        options: Mapping[str, Any] | None = None,
        weights: Weights | None = None,
        *,
        top_names: int = 0,
        scenes: int = 0,
        part_share: float = 0.0,
    ) -> None:
        """Put the parts together; a Detectron2 config is accepted in their place.

        Args:
            clip: Which sees the masks, and reads the words.
            look: How it sees them.
            rule: What is made of masks besides labels.
            regions: Proposes masks where a request brings none.
            size_rule: How large images are, in which masks are found.
            templates: Name of the template set.
            background: The background policy.
            text: How the texts of a vocabulary are engineered.
            options: Of the config that make results, for the record.
            weights: An image tower of Alpha-CLIP as its authors release it, mask prompts, or a state dict of ours; None
                leaves CLIP as it is, and mask prompts at zero.
            top_names: Masks get only these many names, those that fit the whole image best; 0 is all (GC-CLIP).
            scenes: Of the words of the background only so many count, those that fit the image best; 0 is all (BIRDet,
                whose background is made of scenes: ``background`` lists them).
            part_share: Drops a mask of which more than this share lies in a better one of its class; 0 keeps all.

        Raises:
            ConfigError: An option is out of range.
            WeightsError: The weights do not fit.
        """
        super().__init__(clip, templates, background, text, options)
        self.look, self.rule, self.regions, self.size_rule = look, rule, regions, size_rule
        self.top_names = int(at_least("MODEL.MaskClassifier.TOP_NAMES", top_names, 0))
        self.scenes = int(at_least("MODEL.MaskClassifier.SCENES", scenes, 0))
        if not 0 <= part_share <= 1:
            raise ConfigError(f"MODEL.MaskClassifier.PART_SHARE is {part_share}; expected a share in 0..1")
        self.part_share = part_share
        if weights is not None and look.alpha is not None and is_alpha(weights.state):
            fill(look.alpha, weights.state, weights.source)
            self.clip.refresh()
            self.refresh_hash()
        elif weights is not None and look.prompts is not None and EMBEDDING in weights.state:
            look.prompts = MaskPrompts.of(weights.state, weights.source, clip)
            self.refresh_hash()
        else:
            self.fill(weights, OFFICIAL)

    @classmethod
    def parts(cls, cfg: CfgNode, weights: Weights | None) -> dict[str, Any]:
        """Build the parts that a config names; see `TrainedModel.parts`."""
        section = Section(cls, cfg)
        clip = load_tower(ClipSource.of(cfg.MODEL.CLIP), {DENSE}, cls.__name__)
        generator = cfg.MODEL.REGIONS
        if not generator.NAME:
            raise ConfigError(
                "MaskClassifier proposes masks by MODEL.REGIONS.NAME, which is empty; set it to MeanShift"
            )
        return {
            "clip": clip,
            "look": section.make("look", clip),
            "rule": section.make("rule", cfg.TEST.DETECTIONS_PER_IMAGE),
            "regions": build(REGIONS, generator.NAME, lower_keys(generator.OPTIONS, "MODEL.REGIONS.OPTIONS")),
            "size_rule": size_rule(cfg, clip.patch_size),
            **cls.settings_of(cfg, section, weights),
        }

    @classmethod
    def check_head(cls, cfg: CfgNode, weights: Weights) -> None:
        """Check that an image tower of Alpha-CLIP fits the architecture of a config, without any weights of it.

        Raises:
            WeightsError: It does not; says why.
        """
        from ovseg.clip import ViTClip

        if not is_alpha(weights.state):
            raise WeightsError(f"{weights.source} has no {CHANNEL}; expected an image tower of Alpha-CLIP")
        empty = ViTClip.empty(cfg.MODEL.CLIP.ARCH, quick_gelu=True)
        from_official(weights.state, empty.tower.visual.state_dict(), weights.source)

    @classmethod
    def has_head(cls, cfg: CfgNode) -> bool:
        """Tell whether the look has a trained part; see `Sectioned.has_head`."""
        return Section(cls, cfg).options["look"] in ("alpha", "prompted")

    @property
    def gives(self) -> frozenset[str]:
        """What can be wanted of it."""
        return super().gives | {PANOPTIC, INSTANCES}

    @property
    def settings(self) -> dict[str, Any]:
        """What makes results besides the weights and the words, as JSON values; recorded in every result."""
        return {**super().settings, "regions": type(self.regions).__name__, "region_options": self.regions.options}

    def encode_masks(self, image: Tensor, masks: Any) -> Encoded:
        """Encode an image with masks of one's own in the place of proposals; the rest is as in `encode`.

        Args:
            image: (3, h, w) RGB in 0..255 at the size of `size_rule`.
            masks: Of the photograph, of any size of the same shape; see `masks.checked`.

        Raises:
            InputError: The image or the masks have another shape, or a mask is empty.
        """
        if image.ndim != 3 or image.shape[0] != 3 or image.numel() == 0:
            raise InputError(f"got an image of shape {tuple(image.shape)}; expected (3, h, w) RGB in 0..255")
        size = (image.shape[1], image.shape[2])
        own = resized(to_device(checked(masks), self.clip.device), size)
        with torch.inference_mode():
            seen = self._seen(self.normalise(image), own)
        return Encoded((seen,), (size,), identity(self))

    def see(self, images: Tensor) -> list[Seen]:
        """Propose masks and look at them; see `WordedModel.see`."""
        return self.network(images)

    def network(self, images: Tensor) -> list[Seen]:
        """Do what `see` does; each image has a number of masks of its own."""
        found = []
        for image, normal in zip(images, self.normalise(images), strict=True):
            masks = of_ids(self.regions(image))
            if not len(masks):  # nothing was found, so that the image itself is what can be named
                masks = torch.ones(1, *image.shape[1:], dtype=torch.bool, device=image.device)
            found.append(self._seen(normal, masks))
        return found

    def _seen(self, image: Tensor, masks: Tensor) -> Seen:
        size = (image.shape[1], image.shape[2])
        return Seen(self.look(self.clip, image, masks), logits_of(masks), self.look.whole(self.clip, image), size)

    def label(
        self, seen: Seen, network_size: tuple[int, int], size: tuple[int, int], words: Words, want: frozenset[str]
    ) -> Answer:
        """Name the masks; see `WordedModel.label`."""
        shares, resize = self.shares(seen, words), self.resize(seen, network_size, size)
        answer = semantic_results(shares, seen.masks, resize, words, want)
        return replace(answer, **object_results(shares, seen.masks, resize, self.rule, words, want))

    def shares(self, seen: Seen, words: Words) -> Tensor:
        """Name the masks; a part of a better mask is "no object". See `MaskModel.shares`."""
        both = torch.cat([seen.embeddings, seen.whole[None]])
        logits = self._logits(both, words)
        found = logits[:-1].masked_fill(~self._allowed(logits[-1], words), -torch.inf).softmax(-1)
        scores, classes = found.max(-1)
        part = find_parts(seen.masks > 0, classes, scores, self.part_share)[:, None]
        return torch.cat([found.where(~part, 0), part.to(found)], -1)

    def cosines(self, seen: Seen, words: Words) -> Tensor:
        """Compare the masks with every text; see `MaskModel.cosines`."""
        return seen.embeddings @ F.normalize(words.embeddings.to(seen.embeddings), dim=-1).mT

    def _logits(self, embeddings: Tensor, words: Words) -> Tensor:
        rows = words.embeddings.to(embeddings)
        return class_logits(embeddings[None], rows, self.clip.logit_scale, words.columns, void=False)[0]

    def _allowed(self, whole: Tensor, words: Words) -> Tensor:
        """Return which columns (C,) bool the logits (C,) of the whole image leave to its masks."""
        background = to_device(words.column_class, whole.device) < 0
        allowed = torch.ones_like(background)
        for group, count in ((~background, self.top_names), (background, self.scenes)):
            if count and int(group.sum()) > count:
                best = whole.masked_fill(~group, -torch.inf).topk(count).indices
                allowed &= ~group
                allowed[best] = True
        return allowed

    def losses(self, batched_inputs: Sequence[dict[str, Any]], words: Words) -> dict[str, Tensor]:
        """Refuse labelled images in batches: `tools/train_alpha.py` teaches the look ``alpha``.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError("MaskClassifier is taught by named masks; see tools/train_alpha.py of the repository")
