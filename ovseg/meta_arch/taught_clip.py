"""What models share that are a CLIP whose image tower was tuned for dense features, from images without class names."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from ovseg.checkpoint.loading import Official, Weights, load
from ovseg.clip import ClipSource, Tower, load_tower
from ovseg.clip.normalise import normalise
from ovseg.contract import Words
from ovseg.data.preprocessing import SizeRule
from ovseg.errors import ConfigError, one_of
from ovseg.labelling.protocol import Protocol
from ovseg.labelling.scores import ScoreRule
from ovseg.meta_arch.dense_model import DenseModel, view_of
from ovseg.meta_arch.section import Section, Sectioned, lower_keys
from ovseg.recalibration import RECALIBRATIONS, Recalibration
from ovseg.system.device import to_device
from ovseg.system.registry import build
from ovseg.vocabulary import TextOptions

TUNED = ("blocks", "attention", "visual", "none")
LESSON = "lesson."


class Lesson(nn.Module):
    """What an image tower is taught. It has weights of its own only while it teaches."""

    def begin(self, clip: Tower) -> None:
        """Get ready to teach a CLIP, whose weights are still those that a run starts from."""
        raise NotImplementedError

    def idle(self, clip: Tower) -> tuple[str, ...]:
        """Return how names of the weights of a CLIP end that get no gradient from this lesson, beside frozen ones."""
        return ()

    def losses(self, clip: Tower, images: Tensor, masks: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return the weighted losses of a batch, by name.

        Args:
            clip: What learns.
            images: (B, 3, h, w) RGB in 0..1.
            masks: Of the data set, without their names: for each image (n, h, w) bool.
        """
        raise NotImplementedError

    def frozen_copy(self, clip: Tower) -> Tower:
        """Return a frozen copy of a CLIP as it is now."""
        return copy.deepcopy(clip).requires_grad_(False)


class TaughtClip(DenseModel, Sectioned):
    """A CLIP with a tuned image tower, labelling by the method that it was tuned for.

    Attributes:
        official: How the authors store it.
        lesson: Teaches it.
        training_state: Of the training whose checkpoint it was filled from, in words; empty for finished weights.
    """

    made_of: ClassVar[Mapping[str, Callable[..., Any]]]
    unrecorded = ("lesson",)
    official: ClassVar[Official]
    head: ClassVar[tuple[str, ...]] = ("clip.model.visual.",)

    @configurable
    def __init__(
        self,
        clip: Tower,
        recalibration: Recalibration,
        size_rule: SizeRule,
        protocol: Protocol,
        rule: ScoreRule,
        templates: str,
        background: str,
        lesson: Lesson,
        text: TextOptions | None = None,
        weights: Weights | None = None,
        options: Mapping[str, Any] | None = None,
        *,
        tuned: str = "blocks",
    ) -> None:
        """Put the parts together; a Detectron2 config is accepted in their place.

        Args:
            clip: What was tuned, or shall be.
            recalibration: Makes its dense features.
            size_rule: How large the network sees a photograph.
            protocol: Windows and refinement.
            rule: Thresholds.
            templates: Name of the template set.
            background: The background policy.
            lesson: Teaches it.
            text: How the texts of a vocabulary are engineered.
            weights: In the layout of the released ones, or ours; None leaves the CLIP as it is.
            options: Of the config that make results, for the record.
            tuned: What of the image tower is trained: its ``blocks``; ``attention`` and position embeddings;
                all of it (``visual``); or ``none``.

        Raises:
            WeightsError: The weights do not fit.
        """
        super().__init__(
            clip=clip,
            recalibration=recalibration,
            size_rule=size_rule,
            protocol=protocol,
            rule=rule,
            templates=templates,
            background=background,
            text=text,
        )
        self.lesson, self.own_options = lesson, dict(options or {})
        self.training_state = weights.training if weights else ""
        self._tune(one_of("tuned", tuned, TUNED))
        if weights is not None:
            own = {key: value for key, value in weights.state.items() if not key.startswith(LESSON)}
            load(self, weights._replace(state=own), self.official)
        self.clip.refresh()
        self.refresh_hash()

    def _tune(self, tuned: str) -> None:
        idle = self.lesson.idle(self.clip)
        for name, weight in self.clip.model.named_parameters():
            inside = name.startswith("visual.") and not name.endswith(idle) if idle else name.startswith("visual.")
            if tuned == "blocks":
                inside = inside and (".resblocks." in name or ".blocks." in name)
            if tuned == "attention":
                inside = inside and ("attn" in name or "position" in name or "pos_embed" in name)
            weight.requires_grad_(inside and tuned != "none")

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Build the parts that a config names; ``MODEL.WEIGHTS`` is a released checkpoint or one of ours.

        Raises:
            WeightsError: The checkpoint is missing or does not fit.
        """
        return cls.parts(cfg, Weights.read(cfg.MODEL.WEIGHTS) if cfg.MODEL.WEIGHTS else None)

    @classmethod
    def parts(cls, cfg: CfgNode, weights: Weights | None) -> dict[str, Any]:
        """Build the parts that a config names, with CLIP from the checkpoint if it brings one along."""
        section, node = Section(cls, cfg), cfg.MODEL.RECALIBRATION
        method = build(RECALIBRATIONS, node.NAME, lower_keys(node.OPTIONS, "MODEL.RECALIBRATION.OPTIONS"))
        empty, source = cls.official.holds_clip(weights), ClipSource.of(cfg.MODEL.CLIP)
        clip = load_tower(source, method.requires, cls.__name__, empty=empty)
        parts = {"clip": clip, "recalibration": method, "size_rule": view_of(cfg, clip), "weights": weights}
        own = {"lesson": section.make("lesson"), "options": section.of_results, **section.own}
        return {**cls.around(cfg), **parts, **own}

    @property
    def settings(self) -> dict[str, Any]:
        """What makes results besides the weights and the words, as JSON values; recorded in every result."""
        state = {"training": self.training_state} if self.training_state else {}
        return {**super().settings, "tuning": self.own_options, **state}

    @property
    def kept(self) -> tuple[str, ...]:
        """Names of the weights that change without a gradient: a checkpoint of a training has them, too."""
        return tuple(name for name in self.state_dict() if name.startswith(f"{LESSON}slow."))

    def is_own(self, key: str) -> bool:
        """Tell by its name whether a weight is not CLIP's; those of the lesson make no results."""
        return super().is_own(key) and not key.startswith(LESSON)

    def start_training(self, words: Words) -> None:
        """Get the teachers ready; the words of a training are not looked at."""
        self.lesson.begin(self.clip)
        self.lesson.to(self.clip.device)

    def losses(self, batched_inputs: Sequence[dict[str, Any]], words: Words) -> dict[str, Tensor]:
        """Return the losses of a batch; no class name takes part.

        Raises:
            ConfigError: The images of the batch are of different sizes.
        """
        shapes = {tuple(entry["image"].shape) for entry in batched_inputs}
        if len(shapes) > 1:
            raise ConfigError(
                f"{type(self).__name__} is taught with images of one size and got {sorted(shapes)}; set INPUT.CROP to "
                "an absolute size that no image is smaller than"
            )
        images = torch.stack([to_device(entry["image"], self.clip.device) for entry in batched_inputs])
        masks = [to_device(entry["instances"].gt_masks, self.clip.device) for entry in batched_inputs]
        return self.lesson.losses(self.clip, images.float() / 255, masks)


def student_view(clip: Tower, images: Tensor, side: int) -> Tensor:
    """Return the normalised squares (B, 3, side, side) that a CLIP sees of images (B, 3, h, w) in 0..1."""
    sized = F.interpolate(images, (side, side), mode="bilinear", align_corners=False, antialias=True)
    return normalise(sized.clamp(0, 1), clip.mean, clip.std)
