"""The CLIP of cases that hold an image tower of EVA-02's kind, under the names of its authors."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from open_clip.timm_model import TimmModel
from timm.models.eva import Eva
from torch import Tensor, nn

from ovseg.checkpoint.eva import to_open_clip
from ovseg.checkpoint.strict import load_strict
from ovseg.clip import ViTClip
from ovseg.clip.open_clip_internals import build_model


def eva_clip(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> ViTClip:
    """Build the CLIP of a case; the cases hold no text tower, so a tiny random one stands in."""
    model_cfg: dict[str, Any] = {
        "embed_dim": config["embed_dim"],
        "vision_cfg": {"image_size": 8, "patch_size": 8, "layers": 1, "width": 8, "head_width": 8},
        "text_cfg": {"context_length": 4, "vocab_size": 8, "width": 8, "heads": 1, "layers": 1},
    }
    model: Any = build_model(model_cfg, "golden case")
    model.visual = TimmModel("test_vit", embed_dim=config["embed_dim"], pool="token", proj="")
    model.visual.trunk, model.visual.head = _trunk(config), nn.Sequential()
    text = {key: value for key, value in model.state_dict().items() if not key.startswith("visual.")}
    load_strict(model, {**text, **to_open_clip(state)}, "golden case", "EVA")
    return ViTClip(model, model_cfg, "golden case")


def _trunk(config: Mapping[str, Any]) -> nn.Module:
    side = config["pt_hw_seq_len"]
    return Eva(
        img_size=config["image_size"],
        patch_size=config["patch_size"],
        num_classes=config["embed_dim"],
        global_pool="token",
        embed_dim=config["width"],
        depth=config["layers"],
        num_heads=config["width"] // config["head_width"],
        qkv_fused=False,
        mlp_ratio=config["mlp_ratio"],
        swiglu_mlp=True,
        scale_mlp=True,
        scale_attn_inner=True,
        use_rot_pos_emb=True,
        ref_feat_shape=(side, side),
        dynamic_img_size=True,
        norm_layer=partial(nn.LayerNorm, eps=config.get("eps_layernorm", 1e-6)),
    )
