"""What the architectures with a trained part share: options, weights, padded batches; a frozen or tuned CLIP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import Tensor

from ovseg.checkpoint.loading import Official, Weights, load
from ovseg.clip.normalise import normalise
from ovseg.data.preprocessing import SizeRule
from ovseg.errors import ConfigError
from ovseg.meta_arch.section import Section, Sectioned
from ovseg.meta_arch.worded_model import WordedModel
from ovseg.system.device import to_device
from ovseg.vocabulary import TextOptions


def size_rule(cfg: CfgNode, minimum: int, who: str = "a model that proposes masks") -> SizeRule:
    """Read the size rule of a config; the rest of ``MODEL.PROTOCOL`` is for the dense methods.

    Args:
        cfg: The whole config.
        minimum: The smallest side in pixels that the model can see.
        who: What to call a model of this kind in messages.

    Raises:
        ConfigError: Another part of the protocol is set.
    """
    from ovseg.config import default_protocol

    own, usual = ("SHORT_SIDE", "LONG_SIDE", "ASPECT"), default_protocol()
    strange = [key for key, value in cfg.MODEL.PROTOCOL.items() if key not in own and value != usual[key]]
    if strange:
        raise ConfigError(
            f"MODEL.PROTOCOL.{strange[0]} is {cfg.MODEL.PROTOCOL[strange[0]]}, but {who} has "
            f"of the protocol only {', '.join(own)}; leave it out"
        )
    node = cfg.MODEL.PROTOCOL
    return SizeRule(node.SHORT_SIDE, node.LONG_SIDE, node.ASPECT, minimum)


class TrainedModel(WordedModel, Sectioned):
    """A CLIP and trained parts.

    Attributes:
        head: Names of the trained parts in the state dict, by how they start.
        kind: What a model of this kind is made of, for messages.
        size_divisibility: Images are padded with zeros to multiples of so many pixels, as the originals do.
        options: Those of the config that make results (`Section.of_results`), for the record.
        untrained: What of it is new although weights were read, in words; empty where all of it came from them.
        training_state: That of the training whose checkpoint it was filled from, in words; empty for finished weights.
    """

    size_divisibility: int = 32
    head: ClassVar[tuple[str, ...]]
    kind: ClassVar[str]

    def __init__(
        self,
        clip: Any,
        templates: str,
        background: str,
        text: TextOptions | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Check the words' settings of a config.

        Raises:
            ConfigError: The texts are to be engineered for each image, which the trained part has no place for.
        """
        super().__init__(clip, templates, background, text)
        if self.text.autoclip:
            raise ConfigError(
                f"AutoCLIP weighs texts for patches, but {type(self).__name__} has {self.kind}; set "
                "MODEL.TEXT.AUTOCLIP to 0"
            )
        self.options = dict(options or {})
        self.untrained, self.training_state = "", ""

    @property
    def settings(self) -> dict[str, Any]:
        """What makes results besides the weights and the words, as JSON values; recorded in every result."""
        state = {"training": self.training_state} if self.training_state else {}
        return {**super().settings, "options": self.options, **state}

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
        raise NotImplementedError

    @staticmethod
    def settings_of(cfg: CfgNode, section: Section, weights: Weights | None) -> dict[str, Any]:
        """Return what the constructor of every architecture takes of a config as it is, and the weights."""
        return {
            "templates": cfg.MODEL.TEXT.TEMPLATES,
            "background": cfg.MODEL.TEXT.BACKGROUND,
            "text": TextOptions.from_config(cfg.MODEL.TEXT),
            "options": section.of_results,
            "weights": weights,
            **section.own,
        }

    def fill(self, weights: Weights | None, official: Official) -> None:
        """Load the weights that a constructor was given, in the authors' layout or ours; None leaves it untrained.

        Raises:
            WeightsError: They do not fit.
        """
        if weights is not None:
            load(self, weights, official)
            self.training_state = weights.training
        else:
            self.refresh_hash()

    def is_own(self, key: str) -> bool:
        """Tell by its name whether a weight is not CLIP's alone: trained with the model, or of another part."""
        return key.startswith(self.head) or super().is_own(key)

    def normalise(self, image: Tensor) -> Tensor:
        """Normalise images (..., 3, h, w) RGB in 0..255, and bring them to the model's device and dtype."""
        # Mean and deviation are brought to 0..255 and not the image to 0..1: the originals round so, to the last bit.
        mean, std = ([255 * x for x in values] for values in (self.clip.mean, self.clip.std))
        return normalise(to_device(image, self.clip.device).float(), mean, std).to(self.clip.dtype)

    def padded(self, images: Sequence[Tensor]) -> Tensor:
        """Stack normalised images (3, h, w) as (B, 3, H, W), padded to whole multiples of the largest sides.

        In answers the images of a batch are of one size; only in training do others meet.
        """
        unit = self.size_divisibility
        high, wide = (-(-max(sides) // unit) * unit for sides in zip(*(i.shape[1:] for i in images), strict=True))
        return torch.stack([F.pad(i, (0, wide - i.shape[2], 0, high - i.shape[1])) for i in images])

    def training_batch(self, inputs: Sequence[dict[str, Any]]) -> Tensor:
        """Return the images (B, 3, H, W) of Detectron2's inputs, padded to the largest, as the originals train."""
        return self.padded([self.normalise(entry["image"]) for entry in inputs])
