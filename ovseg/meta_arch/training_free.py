"""The training-free architecture: a frozen CLIP, a recalibration of its last blocks, and the protocol around them.

It uses the streamed post-processing directly (pure functions on tensors), so that Detectron2's evaluators and the
Python API run the very same path.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, fields, replace
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from ovseg.clip import FrozenClip
from ovseg.data.windows import WindowPlan
from ovseg.device import to_device
from ovseg.errors import ConfigError
from ovseg.meta_arch.image_engineering import engineer
from ovseg.meta_arch.labelling import Labeller
from ovseg.meta_arch.protocol import Protocol
from ovseg.meta_arch.section import lower_keys
from ovseg.meta_arch.words import WordedModel
from ovseg.postprocess import ScoreRule
from ovseg.recalibration import RECALIBRATIONS, Recalibration
from ovseg.regions import REGIONS, RegionGenerator
from ovseg.system.registry import build
from ovseg.vocabulary import TextOptions

WINDOWS_PER_PASS = 16


@META_ARCH_REGISTRY.register()
class TrainingFree(WordedModel):
    """Labels every pixel by the cosine of CLIP's recalibrated patch features with the words.

    Call `set_vocabulary` first. `full_scores` adds ``sem_seg`` (K, H, W) for evaluators that want it.
    """

    @configurable
    def __init__(
        self,
        *,
        clip: FrozenClip,
        recalibration: Recalibration,
        protocol: Protocol,
        rule: ScoreRule,
        templates: str,
        background: str,
        text: TextOptions | None = None,
        regions: RegionGenerator | None = None,
    ) -> None:
        """Put the parts together; a Detectron2 config is accepted in their place."""
        super().__init__(clip, templates, background, text)
        self.recalibration, self.protocol, self.rule = recalibration, protocol, rule
        protocol.plan((max(protocol.window, clip.patch_size),) * 2, clip.patch_size)
        clip.handed_over(recalibration)
        self.regions = regions
        _check_regions(recalibration, protocol, regions)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Build the parts that a config names."""
        node, options = cfg.MODEL.PROTOCOL, cfg.MODEL.RECALIBRATION
        source = cfg.MODEL.CLIP
        recalibration = build(RECALIBRATIONS, options.NAME, lower_keys(options.OPTIONS, "MODEL.RECALIBRATION.OPTIONS"))
        generator = cfg.MODEL.REGIONS
        text = TextOptions.from_config(cfg.MODEL.TEXT)
        scores = [field.name for field in fields(ScoreRule) if field.name != "area_exempt"]
        rule = ScoreRule(**{name: node[name.upper()] for name in scores}, area_exempt=node.THRESHOLD_LABEL)
        return {
            "clip": FrozenClip.from_folder(source.FOLDER)
            if source.FOLDER
            else FrozenClip.load(source.ARCH, source.PRETRAINED),
            "recalibration": recalibration,
            "protocol": Protocol(**{field.name: node[field.name.upper()] for field in fields(Protocol)}),
            "rule": rule,
            "templates": cfg.MODEL.TEXT.TEMPLATES,
            "background": cfg.MODEL.TEXT.BACKGROUND,
            "text": text,
            "regions": build(REGIONS, generator.NAME, lower_keys(generator.OPTIONS, "MODEL.REGIONS.OPTIONS"))
            if generator.NAME
            else None,
        }

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels: the smallest image that can be segmented."""
        return self.clip.patch_size

    @property
    def settings(self) -> dict[str, Any]:
        """What makes results besides the weights and the words, as JSON values; recorded in every result."""
        return {
            "architecture": type(self).__name__,
            "clip": self.clip.name,
            "recalibration": self.recalibration.name,
            "options": self.recalibration.options,
            "regions": type(self.regions).__name__ if self.regions is not None else "",
            "protocol": _json(self.protocol),
            "text": self.text.to_json(),
            "rule": _json(self.rule),
        }

    @torch.inference_mode()
    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Segment images.

        Args:
            batched_inputs: Detectron2's format: ``image`` (3, h, w) RGB in 0..255 at network size, of any dtype, and
                ``height``, ``width`` of the result (default: the image's own). Images of one size share their passes.

        Returns:
            For each image ``labels`` (H, W) int32 (-1 no class), ``scores`` (H, W) float32, and with `full_scores`
            ``sem_seg`` (K, H, W) float32 class probabilities.

        Raises:
            ConfigError: No vocabulary has been set.
        """
        self.check_vocabulary()
        results: list[dict[str, Any]] = [{} for _ in batched_inputs]
        for members in _same_size(batched_inputs):
            images = self._normalise(torch.stack([batched_inputs[i]["image"] for i in members]))
            plan = self.protocol.plan((images.shape[2], images.shape[3]), self.patch_size)
            regions = None
            if self.regions is not None:
                regions = torch.stack([self.regions(batched_inputs[i]["image"].to(images.device)) for i in members])
            scores, maps = self.patch_scores(images, plan, regions)
            for place, i in enumerate(members):
                image = images[place]
                size = (batched_inputs[i].get("height", image.shape[1]), batched_inputs[i].get("width", image.shape[2]))
                areas = maps[place] if maps else None if regions is None else regions[place]
                results[i] = self._labeller().label(scores[place], plan, image, size, areas, self.full_scores)
        return results

    def patch_scores(
        self, images: Tensor, plan: WindowPlan, regions: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Compare every patch of every window with every query.

        Args:
            images: (B, 3, h, w) normalised.
            plan: Their windows.
            regions: Region ids (B, h, w) of their pixels, for methods that use them.

        Returns:
            Scores (B, T, nI * h', nJ * w') float32, the windows' grids side by side, and the region maps of the method,
            one (R, a, b) per image, if it has any.
        """
        assert self.queries is not None
        parts: list[Tensor] = []
        maps: list[Tensor] = []
        windows = plan.cut(images).split(WINDOWS_PER_PASS)
        areas: Iterable[Tensor | None] = [None] * len(windows)
        if regions is not None and self.recalibration.uses_regions:
            areas = [part[:, 0] for part in plan.cut(regions[:, None], padding=-1).split(WINDOWS_PER_PASS)]
        for own, area in zip(windows, areas, strict=True):
            dense = self.recalibration.encode(self.clip, own, area)
            found = self.recalibration.patch_scores(dense, self.queries)
            if self.protocol.image_engineering:
                found = engineer(found, own, area, self.protocol.image_engineering, self._window_scores)
            parts.append(found)
            maps += self.recalibration.region_maps(dense)
        return plan.join(torch.cat(parts)), maps

    def _labeller(self) -> Labeller:
        """Return what makes labels of scores; the threshold of a background policy takes the place of the rule's."""
        assert self.queries is not None
        rule, threshold = self.rule, self.background.threshold
        if threshold:
            rule = replace(rule, prob_threshold=threshold, threshold_label=-1)
        return Labeller(self.protocol, rule, self.queries.query_to_class, self.clip.mean, self.clip.std)

    def _window_scores(self, windows: Tensor, regions: Tensor | None) -> Tensor:
        """Encode windows (B, 3, h, w) and compare them with every query."""
        assert self.queries is not None
        return self.recalibration.patch_scores(self.recalibration.encode(self.clip, windows, regions), self.queries)

    def _normalise(self, images: Tensor) -> Tensor:
        device = self.clip.device
        mean, std = (torch.tensor(x, device=device).view(3, 1, 1) for x in (self.clip.mean, self.clip.std))
        return ((to_device(images, device).float() / 255 - mean) / std).to(self.clip.dtype)


def _json(settings: Protocol | ScoreRule) -> dict[str, Any]:
    """Return the fields of a data class as JSON values: tuples become lists."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(settings).items()}


def _check_regions(method: Recalibration, protocol: Protocol, regions: RegionGenerator | None) -> None:
    """Refuse a protocol that lacks what a method needs."""
    if method.whole_image and protocol.window:
        raise ConfigError(f"{method.name} sees the whole image at once but WINDOW is {protocol.window}; set it to 0")
    if method.uses_regions and regions is None:
        raise ConfigError(f"{method.name} needs regions; set MODEL.REGIONS.NAME to a region generator")


def _same_size(inputs: list[dict[str, Any]]) -> Iterator[list[int]]:
    """Group the indices of images that have one size."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, entry in enumerate(inputs):
        groups.setdefault(tuple(entry["image"].shape), []).append(index)
    yield from groups.values()
