"""Models of timm with few channels, under names of their own: open_clip hands nothing but a name to timm."""

from __future__ import annotations

from functools import partial
from typing import Any

import timm
from timm.layers import HybridEmbed
from timm.models import register_model
from timm.models.vision_transformer_hybrid import ConvStem
from timm.models.vitamin import VitCfg
from torch import nn

SMALL: dict[str, dict[str, Any]] = {
    "eva02_base_patch16_clip_224": {"ref_feat_shape": (4, 4)},
    "eva02_enormous_patch14_clip_224": {"img_size": 56, "mlp_ratio": 2},
    "eva_giant_patch14_224": {"img_size": 56, "mlp_ratio": 2},
    "vit_base_patch16_siglip_224": {},
    "vit_so400m_patch14_siglip_384": {"img_size": 60},  # 4 patches and a rest, as 384 has 27 and a rest
    "vit_pe_core_base_patch16_224": {"attn_pool_num_heads": 2, "ref_feat_shape": (4, 4)},
    "vit_pe_core_gigantic_patch14_448": {"img_size": 56, "attn_pool_num_heads": 2, "ref_feat_shape": (4, 4)},
    "vitamin_small_224": {"embed_cfg": VitCfg(embed_dim=(8, 16, 32), depths=(1, 1, 1), stem_width=8)},
    "vit_base_mci_224": {},
    "fastvit_mci0": {"layers": (1, 1, 1, 1), "embed_dims": (8, 16, 32, 32)},
    "fastvit_mci3": {"layers": (1, 1, 1, 1, 1), "embed_dims": (8, 16, 16, 32, 32)},
    "vit_large_patch14_clip_224": {"img_size": 56},
    "vit_medium_patch16_gap_256": {},
    "vit_medium_patch16_rope_reg1_gap_256": {"ref_feat_shape": (4, 4)},
}
"""What is changed besides width 32, two heads and images of 64 pixels, which a FastViT does not know."""


def small(name: str, depth: int = 2, **changes: Any) -> str:
    """Register a model of timm with few channels and return its name."""
    own = "_".join(["narrow", name, str(depth), *(f"{key}_{value}" for key, value in changes.items())])
    own = "".join(letter if letter.isalnum() else "_" for letter in own)
    if timm.is_model(own):
        return own
    usual = {} if "fastvit" in name else {"img_size": 64, "embed_dim": 32, "depth": depth, "num_heads": 2}
    options = {**usual, **SMALL[name], **changes}

    def build(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        stem = {"embed_layer": _conv_stem()} if name == "vit_base_mci_224" else {}
        made: nn.Module = timm.create_model(name, **{**options, **stem, **_known(kwargs)})
        return made

    build.__name__ = own
    register_model(build)
    return own


def _known(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Leave out what timm fills in for models of a hub."""
    return {key: value for key, value in kwargs.items() if not key.startswith(("pretrained", "cache_dir"))}


def _conv_stem() -> Any:
    stem = ConvStem(channels=(8, 8, 32), stride=(4, 2, 2), kernel_size=(4, 2, 2), padding=0, act_layer=nn.GELU)
    return partial(HybridEmbed, backbone=stem, proj=False)
