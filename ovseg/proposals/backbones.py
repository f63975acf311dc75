"""Backbones of proposals that are no CLIP: Swin and a ResNet of DeepLab, both of Detectron2, with its names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ovseg.errors import ConfigError, one_of

LEVELS = ("res2", "res3", "res4", "res5")
STRIDE = 32
BACKBONES = ("swin", "resnet_deeplab")


def pyramid(
    *,
    backbone: str = "swin",
    swin_dim: int = 128,
    swin_depths: tuple[int, ...] = (2, 2, 18, 2),
    swin_heads: tuple[int, ...] = (4, 8, 16, 32),
    swin_window: int = 12,
    resnet_depth: int = 101,
) -> nn.Module:
    """Build a backbone with four levels, at strides 4, 8, 16 and 32; see `levels_of`.

    Args:
        backbone: ``swin`` (arXiv 2103.14030) or ``resnet_deeplab``, a ResNet with three convolutions as its stem, whose
            batch norms are frozen.
        swin_dim: Channels of the first level, which double with each.
        swin_depths: Blocks of each level.
        swin_heads: Heads of each level.
        swin_window: Side of the windows of attention.
        resnet_depth: 50, 101 or 152.

    Raises:
        ConfigError: There is no such backbone, or it has not four levels.
    """
    if one_of("backbone", backbone, BACKBONES) == "resnet_deeplab":
        return _resnet(resnet_depth)
    if len(swin_depths) != 4 or len(swin_heads) != 4:
        raise ConfigError(f"a Swin has depths {swin_depths} and heads {swin_heads}; expected four of each")
    from detectron2.modeling.backbone.swin import SwinTransformer

    swin: nn.Module = SwinTransformer(
        embed_dim=swin_dim,
        depths=tuple(swin_depths),
        num_heads=tuple(swin_heads),
        window_size=swin_window,
        out_indices=(0, 1, 2, 3),
    )
    return swin


def _resnet(depth: int) -> nn.Module:
    """Build DeepLab's ResNet: stride in the 3 x 3 convolutions, and dilations 1, 2, 4 in the last stage."""
    if depth not in (50, 101, 152):
        raise ConfigError(f"resnet_depth is {depth}; expected 50, 101 or 152")
    from detectron2.config import get_cfg
    from detectron2.layers import ShapeSpec
    from detectron2.projects.deeplab import add_deeplab_config
    from detectron2.projects.deeplab.resnet import build_resnet_deeplab_backbone

    cfg: Any = get_cfg()
    add_deeplab_config(cfg)
    own = cfg.MODEL.RESNETS
    own.DEPTH, own.STEM_TYPE, own.STEM_OUT_CHANNELS, own.STRIDE_IN_1X1 = depth, "deeplab", 128, False
    own.OUT_FEATURES, own.NORM = list(LEVELS), "FrozenBN"
    own.RES4_DILATION, own.RES5_DILATION, own.RES5_MULTI_GRID = 1, 1, [1, 2, 4]
    found: nn.Module = build_resnet_deeplab_backbone(cfg, ShapeSpec(channels=3))
    return found


def channels_of(backbone: Any) -> dict[str, int]:
    """Return the channels of the levels of a backbone of `pyramid`."""
    return dict(zip(LEVELS, (shape.channels for shape in backbone.output_shape().values()), strict=True))


def levels_of(backbone: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Return the levels (B, C, h, w) of images (B, 3, H, W) whose sides are multiples of `STRIDE`."""
    found: Sequence[Tensor] = list(backbone(images).values())
    return dict(zip(LEVELS, found, strict=True))
