"""A frozen CLIP whose image tower is a FastViT of timm (MobileCLIP-S, MobileCLIP2-S): one map of dense features.

Its stages are convolutions; the last ones mix places by attention as well, but on maps that shrink between them, so
there is no stream of tokens that a method could take over. An image is the mean of its last map, mapped linearly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ovseg.clip.base import BaseClip
from ovseg.clip.open_clip_internals import vision_config
from ovseg.clip.tokens import DENSE
from ovseg.errors import ConfigError


def is_fastvit(model_cfg: Mapping[str, Any]) -> bool:
    """Tell by a config of open_clip whether its image tower is a FastViT."""
    vision = model_cfg.get("vision_cfg")
    return isinstance(vision, Mapping) and "fastvit" in str(vision.get("timm_model_name") or "")


def check_config(model_cfg: dict[str, Any], name: str) -> None:
    """Refuse a model configuration before anything is built or downloaded.

    Raises:
        ConfigError: A part is missing, or the image tower is no FastViT, or does not pool by a mean.
    """
    vision = vision_config(model_cfg, name)
    if not is_fastvit(model_cfg):
        raise ConfigError(f"{name} has no FastViT; expected one such as MobileCLIP-S2")
    if vision.get("timm_pool", "avg") != "avg":
        raise ConfigError(f"{name} pools by '{vision['timm_pool']}'; expected a FastViT with timm_pool 'avg'")


class FastViTTower:
    """A FastViT of timm in open_clip's adapter."""

    def __init__(self, visual: Any) -> None:
        """Adapt a tower."""
        self.visual, self.trunk = visual, visual.trunk
        self.patch_size: int = self.trunk.feature_info[-1]["reduction"]

    @property
    def body(self) -> list[nn.Module]:
        """The modules that make the last map."""
        return [self.trunk.stem, self.trunk.stages, self.trunk.final_conv]

    def places(self, images: Tensor) -> Tensor:
        """Return what is at every place of the last map of images, in the joint space: (B, D, h, w)."""
        last = self.trunk.forward_features(images)
        joint: Tensor = self.visual.head(self.trunk.head.fc(last.flatten(2).mT.to(images.dtype)))
        return joint.mT.unflatten(2, last.shape[2:])


class FastViTClip(BaseClip):
    """A frozen CLIP whose image tower is a FastViT.

    Attributes:
        tower: The image tower.
    """

    tower: FastViTTower
    check_config = staticmethod(check_config)
    has = frozenset({DENSE})
    recipe = (
        "every place of the last map goes through the head by itself; the embedding of an image is their mean, as in "
        "the class activation maps of Zhou et al. (arXiv 1512.04150)"
    )

    @staticmethod
    def tower_of(model: Any) -> FastViTTower:
        """Adapt the image tower; see `BaseClip.tower_of`."""
        return FastViTTower(model.visual)

    @property
    def patch_size(self) -> int:
        """Side of the square of pixels that one place of the last map stands for."""
        return self.tower.patch_size

    @property
    def body(self) -> list[nn.Module]:
        """The modules that make the last map."""
        return self.tower.body

    def dense_map(self, images: Tensor, rule: str, own_values: bool) -> tuple[Tensor, Tensor]:
        """Return features (B, D, h, w) in the joint space and the embedding (B, D) of images; see `Tower.dense_map`."""
        height, width = (side // self.patch_size * self.patch_size for side in images.shape[2:])
        found = self.tower.places(images[:, :, :height, :width].to(self.dtype))
        return found, found.mean((2, 3))
