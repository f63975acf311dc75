"""Open-Vocabulary SAM in the one path: prompts on one encoded image, and everything by a grid of points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor
from typing_extensions import Self

from ovseg.checkpoint.loading import Official, Weights
from ovseg.clip import ClipSource, Tower, load_tower
from ovseg.clip.normalise import normalise
from ovseg.clip.resnet import ResNetTower
from ovseg.clip.tokens import LEVELS
from ovseg.contract import INSTANCES, PANOPTIC, Answer, Words
from ovseg.data.preprocessing import SizeRule
from ovseg.errors import ConfigError, InputError
from ovseg.labelling.known import seen_columns
from ovseg.labelling.objects import MaskRule, object_results, semantic_results
from ovseg.meta_arch.mask_model import MaskModel
from ovseg.meta_arch.ovsam.everything import Everything
from ovseg.meta_arch.ovsam.head import LOG_SCALE, Decoder, Pyramid, boxes_of, cut, fuse, regions_of
from ovseg.meta_arch.ovsam.library import sam_modules
from ovseg.meta_arch.ovsam.neck import CELL, Sam2Clip
from ovseg.meta_arch.ovsam.weights import check_head, collect
from ovseg.meta_arch.section import Section
from ovseg.meta_arch.trained_model import size_rule
from ovseg.ops.mask_pooling import resize_masks
from ovseg.proposals.classifier import class_logits
from ovseg.result.prompts import Found, Prompt
from ovseg.system.device import to_device
from ovseg.vocabulary import TextOptions, Vocabulary

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
"""Of the images, in 0..255: those of ImageNet, as the authors train it, and not CLIP's."""
STAGES = ("res2", "res3", "res4", "res5")


class Named(NamedTuple):
    """Masks of prompts, and what names them.

    Attributes:
        masks: Logits (N, h, w).
        regions: What the head sees of them, (N, E).
        pooled: What CLIP sees, (N, E).
        valid: Which (N,) have a pixel on CLIP's grid.
    """

    masks: Tensor
    regions: Tensor
    pooled: Tensor
    valid: Tensor


class Seen(NamedTuple):
    """What is kept of an image.

    Attributes:
        features: As SAM has them, (1, D, h, w).
        pyramid: On CLIP's levels, (1, D, h, w) each.
        dense: CLIP's last level (1, C, h, w).
        named: Masks of a grid of points.
        padded: Height and width of the network's input.
    """

    features: Tensor
    pyramid: list[Tensor]
    dense: Tensor
    named: Named
    padded: tuple[int, int]

    @property
    def masks(self) -> Tensor:
        """Logits (Q, h, w) of the masks of the grid."""
        return self.named.masks


@dataclass(frozen=True)
class Mixing:
    """How much of CLIP's own names counts.

    Attributes:
        base: Share where the head was trained on a class, alpha.
        novel: Share where it was not, beta.
        names: The words that it was trained on.
    """

    base: float
    novel: float
    names: frozenset[str]

    @classmethod
    def read(cls, *, alpha: float = 0.1, beta: float = 0.9, trained_vocabulary: str = "") -> Mixing:
        """Read the options of a config; ``trained_vocabulary`` is a preset, a file or a list, empty for none.

        Raises:
            ConfigError: A share is out of range.
        """
        if not (0 <= alpha <= 1 and 0 <= beta <= 1):
            raise ConfigError(f"ALPHA and BETA are {alpha} and {beta}; expected shares in 0..1")
        names = Vocabulary.parse(trained_vocabulary).queries if trained_vocabulary else ()
        return cls(alpha, beta, frozenset(names))


def square(*, side: int = 1024, dim: int = 256) -> tuple[int, int]:
    """Read the side of the square that the network sees, and the channels of SAM's features.

    Raises:
        ConfigError: The side is no multiple of 64 pixels.
    """
    if side < 64 or side % 64:
        raise ConfigError(f"SIDE is {side}; expected a multiple of 64 pixels, for the coarsest level is at 1/32")
    return side, dim


@META_ARCH_REGISTRY.register()
class OVSAM(MaskModel):
    """Open-Vocabulary SAM (Yuan et al., ECCV 2024; github.com/HarborYuan/ovsam).

    Attributes:
        neck_student: SAM2CLIP.
        fpn_neck: The pyramid that names regions.
        mask_decoder: CLIP2SAM.
        prompt_encoder: SAM's own.
    """

    head: ClassVar[tuple[str, ...]] = ("neck_student.", "fpn_neck.", "mask_decoder.", "prompt_encoder.")
    not_compiled = "SAM's prompts and boxes around masks are no single graph"
    check_head = classmethod(check_head)
    made_of: ClassVar[Any] = {
        "shape": square,
        "neck": Sam2Clip,
        "everything": Everything,
        "mixing": Mixing.read,
        "rule": partial(MaskRule, panoptic=True, instances=True, object_threshold=0.0),
        "weights": collect,
    }
    unrecorded: ClassVar[tuple[str, ...]] = ("weights", "mixing")

    @configurable
    def __init__(
        self,
        clip: Tower,
        shape: tuple[int, int],
        neck: Sam2Clip,
        everything: Everything,
        mixing: Mixing,
        rule: MaskRule,
        size_rule: SizeRule,
        templates: str,
        background: str,
        text: TextOptions | None = None,
        options: dict[str, Any] | None = None,
        weights: Weights | None = None,
    ) -> None:
        """Put the parts together; a Detectron2 config is accepted in their place.

        Args:
            clip: With a ResNet.
            shape: Side of the square that it sees, and channels of SAM's features.
            neck: SAM2CLIP.
            everything: How everything is found without a prompt.
            mixing: How much of CLIP's own names counts.
            rule: What is made of the masks.
            size_rule: How large a photograph is in the square.
            templates: Name of the template set.
            background: The background policy.
            text: How the texts of a vocabulary are engineered.
            options: Of the config that make results, for the record.
            weights: Of all but CLIP; None leaves it untrained.
        """
        super().__init__(clip, templates, background, text, options)
        self.side, width = shape
        cells = (self.side // CELL, self.side // CELL)
        self.neck_student = neck
        self.fpn_neck = Pyramid([clip.channels[name] for name in STAGES], width)
        self.mask_decoder = Decoder(width, clip.embed_dim)
        self.prompt_encoder = sam_modules().PromptEncoder(width, cells, (self.side, self.side), 16)
        self.everything, self.mixing, self.rule, self.size_rule = everything, mixing, rule, size_rule
        self.fill(weights, Official("Open-Vocabulary SAM", "\n", str))

    @classmethod
    def parts(cls, cfg: CfgNode, weights: Weights | None) -> dict[str, Any]:
        """Build the parts that a config names; see `MaskModel.parts`."""
        section = Section(cls, cfg)
        clip = load_tower(ClipSource.of(cfg.MODEL.CLIP), {LEVELS}, cls.__name__)
        if not isinstance(clip.tower, ResNetTower):
            raise ConfigError(
                f"{clip.name} has no ResNet, whose attention pool names regions; expected RN50x16 or such"
            )
        shape = section.make("shape")
        cells = (shape[0] // CELL, shape[0] // CELL)
        rule = size_rule(cfg, 32, "a model of prompts")
        if rule.long_side > shape[0]:
            raise ConfigError(f"MODEL.PROTOCOL.LONG_SIDE is {rule.long_side}; expected at most SIDE, {shape[0]}")
        return {
            **cls.settings_of(cfg, section, None),
            "clip": clip,
            "shape": shape,
            "neck": section.make("neck", [clip.channels[name] for name in STAGES], cells, shape[1]),
            "everything": section.make("everything"),
            "mixing": section.make("mixing"),
            "rule": section.make("rule", cfg.TEST.DETECTIONS_PER_IMAGE),
            "size_rule": rule,
            "weights": section.make("weights", weights),
        }

    @property
    def gives(self) -> frozenset[str]:
        """What can be wanted of the model."""
        return super().gives | {PANOPTIC, INSTANCES}

    @property
    def settings(self) -> dict[str, Any]:
        """What makes results besides the weights and the words, as JSON values; recorded in every result."""
        mixing = {**asdict(self.mixing), "names": sorted(self.mixing.names)}
        statistics = [[value / 255 for value in values] for values in (MEAN, STD)]
        return {**super().settings, "rule": asdict(self.rule), "mixing": mixing, "normalisation": statistics}

    def normalise(self, image: Tensor) -> Tensor:
        """Normalise images by the statistics of ImageNet; see `TrainedModel.normalise`."""
        return normalise(to_device(image, self.clip.device).float(), MEAN, STD).to(self.clip.dtype)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """Move as ever, but keep all that is not CLIP in float32: boxes and places have no kernels of less."""
        super()._apply(fn, recurse)
        for name in self.head:
            self.get_submodule(name.removesuffix(".")).float()
        return self

    def padded(self, images: Sequence[Tensor]) -> Tensor:
        """Stack images in squares, padded with zeros at the right and the bottom.

        Raises:
            InputError: One is larger than the square.
        """
        if (most := max(max(image.shape[1:]) for image in images)) > self.side:
            raise InputError(f"an image has {most} pixels along a side; expected at most {self.side}: see size_rule")
        pads = [(0, self.side - image.shape[2], 0, self.side - image.shape[1]) for image in images]
        return torch.stack([F.pad(image, pad) for image, pad in zip(images, pads, strict=True)])

    def network(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return SAM's features, CLIP's last level and the levels of the pyramid; see `WordedModel.network`."""
        with self.clip.autocast():
            levels = self.clip.levels(images)
        stages = [levels[name].float() for name in STAGES]
        return self.neck_student(stages), stages[-1], *self.fpn_neck(stages)

    def see(self, images: Tensor) -> list[Seen]:
        """Look at images, and find everything by a grid of points; see `WordedModel.see`."""
        size = (images.shape[2], images.shape[3])
        features, dense, *pyramid = self.run_network(self.padded(list(self.normalise(images))))
        padded, found = (self.side, self.side), []
        for i in range(len(images)):
            one = Seen(features[i : i + 1], [level[i : i + 1] for level in pyramid], dense[i : i + 1], None, padded)  # type: ignore[arg-type]
            points = self.everything.points_in(size).to(features)[:, None]
            masks = torch.cat([self.masks(one, part) for part in points.split(self.everything.at_once)])
            masks = masks[self.everything.chosen(masks, size, self.side)]
            found.append(one._replace(named=self.named(one, masks)))
        return found

    def masks(
        self, seen: Seen, points: Tensor | None = None, inside: Tensor | None = None, boxes: Tensor | None = None
    ) -> Tensor:
        """Decode prompts, each with the same number of points.

        Args:
            seen: The image.
            points: (N, P, 2) x and y in pixels of the network's input, from its upper left corner.
            inside: Whether each is in the mask that is meant (N, P), 1, or out of it, 0; None is all in it.
            boxes: (N, 4) left, top, right, bottom.

        Returns:
            Mask logits (N, h, w).
        """
        prompts = None
        if points is not None:
            marks = points.new_ones(points.shape[:2]) if inside is None else inside.to(points)
            prompts = (points, marks)
        sparse, dense = self.prompt_encoder(points=prompts, boxes=boxes, masks=None)
        positions = self.prompt_encoder.get_dense_pe()
        return self.mask_decoder.masks(seen.features, positions, sparse, dense)[:, 0]

    def named(self, seen: Seen, masks: Tensor) -> Named:
        """See what names masks (N, h, w)."""
        boxes = boxes_of(masks, self.side / masks.shape[-1])
        places = cut(seen.dense, boxes, 32)
        grid = (places.shape[2], places.shape[3])
        # The attention pool comes under the precision of CLIP's trunk.
        with self.clip.autocast():
            _, pooled = self.clip.tower.each(places.flatten(2).mT.to(self.clip.dtype), grid, "bilinear", False)
        valid = (resize_masks(masks[None], tuple(seen.dense.shape[2:])) > 0)[0].flatten(1).any(1)  # type: ignore[arg-type]
        return Named(masks, self.mask_decoder.embed(regions_of(seen.pyramid, boxes)), pooled.float(), valid)

    def names(self, named: Named, words: Words) -> Tensor:
        """Return the class probabilities (N, C + 1) of masks, the background last."""
        texts = words.embeddings.to(named.regions)
        rows = torch.cat([texts, torch.zeros_like(texts[:1])])
        head, own = (
            class_logits(x[None], rows, math.exp(LOG_SCALE), words.columns, void=True)[0]
            for x in (named.regions, named.pooled)
        )
        seen = seen_columns(words, self.mixing.names).to(head.device)
        return fuse(head, own, seen, (self.mixing.base, self.mixing.novel), named.valid).softmax(-1)

    def shares(self, seen: Seen, words: Words) -> Tensor:
        """Name the masks of the grid; see `MaskModel.shares`."""
        return self.names(seen.named, words)

    def cosines(self, seen: Seen, words: Words) -> Tensor:
        """Compare what CLIP sees of each mask with every text; see `MaskModel.cosines`."""
        return F.normalize(seen.named.pooled, dim=-1) @ words.embeddings.to(seen.named.pooled).mT

    def label(
        self, seen: Seen, network_size: tuple[int, int], size: tuple[int, int], words: Words, want: frozenset[str]
    ) -> Answer:
        """Label everything; see `WordedModel.label`."""
        shares, resize = self.shares(seen, words), self.resize(seen, network_size, size)
        answer = semantic_results(shares, seen.masks, resize, words, want)
        return replace(answer, **object_results(shares, seen.masks, resize, self.rule, words, want))

    def point_at(
        self, seen: Seen, network_size: tuple[int, int], size: tuple[int, int], words: Words, prompt: Prompt
    ) -> Found:
        """Decode the prompt itself; see `MaskModel.point_at`."""
        device = seen.features.device
        factors = torch.tensor([network_size[1] / size[1], network_size[0] / size[0]], device=device)
        points = inside = boxes = None
        if prompt.places:
            # Pixels are meant by their middles, which the prompt encoder adds itself.
            middles = torch.tensor([[column, row] for row, column, _ in prompt.places], device=device) + 0.5
            points = (middles * factors - 0.5)[None]
            inside = torch.tensor([[int(own) for _, _, own in prompt.places]], device=device)
        if prompt.box is not None:
            boxes = torch.tensor([prompt.box], device=device) * factors.repeat(2) - 0.5
        named = self.named(seen, self.masks(seen, points, inside, boxes))
        resize = self.resize(seen, network_size, size)
        full = resize.probabilities(named.masks, (slice(0, size[0]), slice(0, size[1])))[0] > 0.5
        return Found(full, self.names(named, words)[0, :-1])
