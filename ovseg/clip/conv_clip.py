"""A frozen CLIP with a convolutional image tower, whose levels feed heads and whose last level embeds masks."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ovseg.clip.base import BaseClip
from ovseg.clip.convnext import ConvNeXtTower
from ovseg.clip.open_clip_internals import vision_config
from ovseg.clip.resnet import ResNetTower
from ovseg.clip.tokens import LEVELS
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


class ConvClip(BaseClip):
    """A frozen CLIP whose image tower is a ConvNeXt (of timm) or CLIP's own ResNet.

    Attributes:
        tower: The image tower.
    """

    tower: ConvNeXtTower | ResNetTower
    check_config = staticmethod(check_config)

    @staticmethod
    def tower_of(visual: Any) -> ConvNeXtTower | ResNetTower:
        """Adapt the image tower; see `BaseClip.tower_of`."""
        return ConvNeXtTower(visual) if hasattr(visual, "trunk") else ResNetTower(visual)

    @property
    def has(self) -> frozenset[str]:
        """What models may need of it; a pyramid has no tokens."""
        return frozenset({LEVELS})

    @property
    def recipe(self) -> str:
        """How its dense features come about; see `Tower.recipe`."""
        return "features inside a mask are pooled and embedded as CLIP embeds an image (FC-CLIP, arXiv 2308.02487)"

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

    def pool(self, dense: Tensor, mask_logits: Tensor) -> Tensor:
        """Embed masks in the joint space, as CLIP embeds whole images.

        Args:
            dense: (B, C, h, w), of `levels`.
            mask_logits: (B, Q, H, W), resized bilinearly to (h, w); a mask is where they are positive.

        Returns:
            (B, Q, D), not of unit length.
        """
        return self.tower.pool(dense, mask_logits)
