"""A frozen CLIP with a convolutional image tower, whose levels feed heads and whose last level embeds masks."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ovseg.clip.base import BaseClip
from ovseg.clip.convnext import ConvNeXtTower
from ovseg.clip.open_clip_internals import vision_config
from ovseg.clip.resnet import ResNetTower
from ovseg.clip.tokens import DENSE, LEVELS
from ovseg.errors import ConfigError

STRIDE = 32


def check_config(model_cfg: dict[str, Any], name: str) -> None:
    """Refuse a model configuration before anything is built or downloaded.

    Raises:
        ConfigError: A part is missing, or the image tower is neither a ConvNeXt nor a ResNet.
    """
    vision = vision_config(model_cfg, name)
    tower = str(vision.get("timm_model_name") or "")
    if "convnext" not in tower and (tower or not isinstance(vision.get("layers"), list | tuple)):
        kind = f"the timm tower {tower}" if tower else "a vision transformer"
        raise ConfigError(f"{name} has {kind}; expected a ConvNeXt or ResNet such as convnext_large_d_320 or RN50")


def convnext_of(clip: Any, who: str) -> ConvNeXtTower:
    """Return the image tower of a CLIP, which has to be a ConvNeXt, for it embeds single pixels.

    Args:
        clip: Any.
        who: The model that needs it, for the message.

    Raises:
        ConfigError: It is another.
    """
    if not (isinstance(clip, ConvClip) and isinstance(clip.tower, ConvNeXtTower)):
        raise ConfigError(f"{who} embeds pixels as a ConvNeXt does, which {clip.name} is not; use a ConvNeXt")
    return clip.tower


class ConvClip(BaseClip):
    """A frozen CLIP whose image tower is a ConvNeXt (of timm) or CLIP's own ResNet.

    Attributes:
        tower: The image tower.
    """

    tower: ConvNeXtTower | ResNetTower
    check_config = staticmethod(check_config)

    @staticmethod
    def tower_of(model: Any) -> ConvNeXtTower | ResNetTower:
        """Adapt the image tower; see `BaseClip.tower_of`."""
        return ConvNeXtTower(model.visual) if hasattr(model.visual, "trunk") else ResNetTower(model.visual)

    @property
    def has(self) -> frozenset[str]:
        """What models may need of it; a pyramid has no tokens."""
        return frozenset({DENSE, LEVELS})

    @property
    def recipe(self) -> str:
        """How its dense features come about; see `Tower.recipe`."""
        return self.tower.recipe

    @property
    def patch_size(self) -> int:
        """Side of the square of pixels that one place of the last level stands for."""
        return STRIDE

    @property
    def body(self) -> list[nn.Module]:
        """The modules that make the levels, all but the embedding of masks."""
        return self.tower.body

    @property
    def channels(self) -> dict[str, int]:
        """Channels of every level, by its name."""
        return self.tower.channels

    def levels(self, images: Tensor) -> dict[str, Tensor]:
        """Return the feature maps of all levels.

        Args:
            images: Normalised (B, 3, H, W), sides multiples of 32.

        Returns:
            ``stem``, ``res2`` (1/4), ``res3`` (1/8), ``res4`` (1/16), ``res5`` (1/32), each (B, C, h, w), and
            ``dense`` (1/32), from which masks are pooled.
        """
        return self.tower.levels(images.to(self.dtype))

    def dense_map(self, images: Tensor, rule: str, own_values: bool) -> tuple[Tensor, Tensor]:
        """Return features (B, D, h, w) in the joint space and the embedding (B, D) of images; see `Tower.dense_map`."""
        height, width = (side // STRIDE * STRIDE for side in images.shape[2:])
        dense = self.levels(images[:, :, :height, :width])["dense"]
        places, embedding = self.tower.each(dense.flatten(2).mT, (dense.shape[2], dense.shape[3]), rule, own_values)
        return places.mT.unflatten(2, dense.shape[2:]), embedding

    def pool(self, dense: Tensor, mask_logits: Tensor) -> Tensor:
        """Embed masks in the joint space, as CLIP embeds whole images.

        Args:
            dense: (B, C, h, w), of `levels`.
            mask_logits: (B, Q, H, W), resized bilinearly to (h, w); a mask is where they are positive.

        Returns:
            (B, Q, D), not of unit length.
        """
        return self.tower.pool(dense, mask_logits)
