"""The training-free architecture: a frozen CLIP, a recalibration of its last blocks, and the protocol around them.

It uses the streamed post-processing directly (pure functions on tensors), so that Detectron2's evaluators and the
Python API run the very same path.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from ovseg.clip import FrozenClip
from ovseg.data.windows import WindowPlan, bilinear_matrix, plan_windows
from ovseg.errors import ConfigError, EnvironmentProblem
from ovseg.postprocess import ScoreRule, class_probabilities, segment_map, upsample
from ovseg.recalibration import Recalibration, build_recalibration
from ovseg.refinement import affinity, propagate
from ovseg.vocabulary import (
    Background,
    Queries,
    TextCache,
    TextEmbedder,
    Vocabulary,
    parse_background,
    resolve_templates,
)

WINDOWS_PER_PASS = 16
QUERIES_PER_REFINEMENT = 64


@dataclass(frozen=True)
class Protocol:
    """What papers set per benchmark, apart from the score rule.

    Attributes:
        short_side, long_side: Size rule in pixels, applied by whoever reads the image (`ovseg.data.preprocessing`).
        window, stride: Sliding windows in pixels; window 0 is the whole image.
        padding: ``none``, ``corner`` or ``even``; see `ovseg.data.windows.plan_windows`.
        pamr_at: Where the rule's PAMR runs: ``output``, at the size of the photograph (NACLIP), or ``network``, at the
            size of the network input, which costs the same for photographs of all sizes.

    Raises:
        ConfigError: A side is not positive, windows cannot be laid out so, or `pamr_at` is another word.
    """

    short_side: int
    long_side: int
    window: int
    stride: int
    padding: str
    pamr_at: str = "output"

    def __post_init__(self) -> None:
        """Check the values; those of windows where they are used."""
        if min(self.short_side, self.long_side) < 1:
            raise ConfigError(f"short_side is {self.short_side} and long_side {self.long_side}; expected at least 1")
        if self.pamr_at not in ("output", "network"):
            raise ConfigError(f"pamr_at is '{self.pamr_at}'; expected output or network")

    def plan(self, size: tuple[int, int], patch: int) -> WindowPlan:
        """Plan the windows of a network input of ``size`` (height, width)."""
        return plan_windows(size, patch, self.window, self.stride, self.padding)


@META_ARCH_REGISTRY.register()
class TrainingFree(nn.Module):
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
    ) -> None:
        """Put the parts together; a Detectron2 config is accepted in their place."""
        super().__init__()
        self.clip, self.recalibration = clip, recalibration
        self.protocol, self.rule = protocol, rule
        resolve_templates(templates)  # mistakes of a config come to light before the first image
        protocol.plan((max(protocol.window, clip.patch_size),) * 2, clip.patch_size)
        clip.handed_over(recalibration)
        self.default_templates, self.default_background = templates, background
        self.full_scores = True
        self.vocabulary: Vocabulary | None = None
        self.background: Background = parse_background(background)
        self.templates = templates
        self.queries: Queries | None = None

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Build the parts that a config names."""
        node, options = cfg.MODEL.PROTOCOL, cfg.MODEL.RECALIBRATION
        source = cfg.MODEL.CLIP
        recalibration = build_recalibration(options.NAME, **{k.lower(): v for k, v in options.OPTIONS.items()})
        rule = ScoreRule(
            logit_scale=node.LOGIT_SCALE,
            prob_threshold=node.PROB_THRESHOLD,
            threshold_label=node.THRESHOLD_LABEL,
            area_threshold=node.AREA_THRESHOLD,
            area_exempt=node.THRESHOLD_LABEL,
            min_max=node.MIN_MAX,
            pamr_steps=node.PAMR_STEPS,
            pamr_dilations=tuple(node.PAMR_DILATIONS),
        )
        return {
            "clip": FrozenClip.from_folder(source.FOLDER)
            if source.FOLDER
            else FrozenClip.load(source.ARCH, source.PRETRAINED),
            "recalibration": recalibration,
            "protocol": Protocol(node.SHORT_SIDE, node.LONG_SIDE, node.WINDOW, node.STRIDE, node.PADDING, node.PAMR_AT),
            "rule": rule,
            "templates": cfg.MODEL.TEXT.TEMPLATES,
            "background": cfg.MODEL.TEXT.BACKGROUND,
        }

    @property
    def weights_hash(self) -> str:
        """Hash of the frozen weights."""
        return self.clip.weights_hash

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels: the smallest image that can be segmented."""
        return self.clip.patch_size

    @property
    def settings(self) -> dict[str, Any]:
        """What makes results besides the weights and the words, as JSON values; recorded in every result."""
        simple = (bool, int, float, str)
        return {
            "architecture": type(self).__name__,
            "clip": self.clip.name,
            "recalibration": self.recalibration.name,
            "options": {key: value for key, value in vars(self.recalibration).items() if isinstance(value, simple)},
            "protocol": asdict(self.protocol),
            "rule": {**asdict(self.rule), "pamr_dilations": list(self.rule.pamr_dilations)},
        }

    @cached_property
    def text_cache(self) -> TextCache | None:
        """The cache of text embeddings, opened once, for it remembers what it has read of its files.

        Where there can be none (a read-only home), it warns and goes on without.
        """
        try:
            return TextCache()
        except EnvironmentProblem as problem:
            warnings.warn(f"{problem}; going on without a text cache", RuntimeWarning, stacklevel=3)
            return None

    def set_vocabulary(
        self,
        vocabulary: Vocabulary,
        background: str | Background | Iterable[str] | None = None,
        templates: str | None = None,
    ) -> Queries:
        """Choose the words of the following calls; embeds what the cache on disk does not know yet.

        Args:
            vocabulary: The classes.
            background: A policy; None is the one of the config.
            templates: Name of a template set; None is the one of the config.

        Raises:
            VocabularyError: The policy cannot be used.
            UnknownNameError: No such policy or template set.
        """
        policy = parse_background(self.default_background if background is None else background)
        chosen = templates or self.default_templates
        same = self.vocabulary == vocabulary and (self.background, self.templates) == (policy, chosen)
        if self.queries is None or not same:
            self.queries = TextEmbedder(self.clip, chosen, self.text_cache).embed_vocabulary(vocabulary, policy)
        self.vocabulary, self.background, self.templates = vocabulary, policy, chosen  # colours may be new
        return self.queries

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
        if self.queries is None:
            raise ConfigError(
                "the model has no vocabulary; call model.set_vocabulary(Vocabulary.parse(['cat', 'sofa'])) first"
            )
        results: list[dict[str, Any]] = [{} for _ in batched_inputs]
        for members in _same_size(batched_inputs):
            images = self._normalise(torch.stack([batched_inputs[i]["image"] for i in members]))
            plan = self.protocol.plan((images.shape[2], images.shape[3]), self.patch_size)
            scores = self.patch_scores(images, plan)
            for i, image, own in zip(members, images, scores, strict=True):
                size = (batched_inputs[i].get("height", image.shape[1]), batched_inputs[i].get("width", image.shape[2]))
                results[i] = self._finish(own, plan, image, size)
        return results

    def patch_scores(self, images: Tensor, plan: WindowPlan) -> Tensor:
        """Compare every patch of every window with every query.

        Args:
            images: (B, 3, h, w) normalised.
            plan: Their windows.

        Returns:
            (B, T, nI * h', nJ * w') float32, the windows' patch grids side by side.
        """
        assert self.queries is not None
        parts = []
        for windows in plan.cut(images).split(WINDOWS_PER_PASS):
            dense = self.clip.dense(windows, self.recalibration)
            parts.append(self.recalibration.patch_scores(dense.cosines(self.queries.embeddings), dense.context))
        return plan.join(torch.cat(parts))

    def _normalise(self, images: Tensor) -> Tensor:
        weight = next(self.clip.parameters())
        mean, std = (torch.tensor(x, device=weight.device).view(3, 1, 1) for x in (self.clip.mean, self.clip.std))
        return ((images.to(weight.device).float() / 255 - mean) / std).to(weight.dtype)

    def _finish(self, scores: Tensor, plan: WindowPlan, image: Tensor, size: tuple[int, int]) -> dict[str, Any]:
        """Bring patch scores (T, ...) to a label map of `size`."""
        assert self.queries is not None and self.vocabulary is not None
        rule = self.rule
        if self.background.threshold:
            rule = replace(rule, prob_threshold=self.background.threshold, threshold_label=-1)
        guide = None
        if rule.pamr_steps and self.protocol.pamr_at == "network":
            scores = self._refined(scores, plan, image)
            rows, columns = (bilinear_matrix(*sides).float() for sides in zip(image.shape[1:], size, strict=True))
            rule = replace(rule, pamr_steps=0)
        else:
            rows, columns = plan.matrices(size)
            if rule.pamr_steps:
                guide = F.interpolate(image[None].float(), size, mode="bilinear", align_corners=False)[0]
        arguments = (scores, rows, columns, self.queries.query_to_class, rule, guide)
        labels, best = segment_map(*arguments)
        result = {"labels": labels, "scores": best}
        return {**result, "sem_seg": class_probabilities(*arguments)} if self.full_scores else result

    def _refined(self, scores: Tensor, plan: WindowPlan, image: Tensor) -> Tensor:
        """Refine patch scores (T, ...) at the size of the network input: (T, h, w), a few queries at a time."""
        steps, dilations = self.rule.pamr_steps, self.rule.pamr_dilations
        rows, columns = plan.matrices((image.shape[1], image.shape[2]))
        weights = affinity(image[None].float(), dilations)
        parts = (upsample(part, rows, columns)[None] for part in scores.split(QUERIES_PER_REFINEMENT))
        return torch.cat([propagate(part, weights, steps, dilations)[0] for part in parts])


def _same_size(inputs: list[dict[str, Any]]) -> Iterator[list[int]]:
    """Group the indices of images that have one size."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, entry in enumerate(inputs):
        groups.setdefault(tuple(entry["image"].shape), []).append(index)
    yield from groups.values()
