"""Alpha-CLIP: the image tower with a mask beside the picture, and how the state dict of an OpenAI CLIP is extended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg.clip import ViTClip
from ovseg.clip.alpha import AlphaTower, extend, fill, normalise_alpha
from ovseg.clip.open_clip_internals import build_model


def build(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> tuple[ViTClip, AlphaTower]:
    """Build the tower of a case; where it has no text tower, a tiny random one stands in."""
    width = config["width"]
    text_width = config.get("text_width", 8)
    model_cfg = {
        "embed_dim": config.get("embed_dim") or config["output_dim"],
        "quick_gelu": True,
        "vision_cfg": {
            "image_size": config["input_resolution"],
            "patch_size": config["patch_size"],
            "layers": config["layers"],
            "width": width,
            "head_width": width // config["heads"] if "heads" in config else 64,
        },
        "text_cfg": {
            "context_length": config.get("context_length", 4),
            "vocab_size": config.get("vocab_size", 8),
            "width": text_width,
            "heads": max(1, text_width // 64),
            "layers": config.get("text_layers", 1),
        },
    }
    model = build_model(model_cfg, "golden case").state_dict()
    clip = ViTClip.from_config(model_cfg, {key: state.get(key, value) for key, value in model.items()}, "golden case")
    alpha = AlphaTower(clip.tower).eval()
    fill(alpha, {key: value for key, value in state.items() if key.startswith("visual.")}, "golden case")
    return clip, alpha


@torch.no_grad()
def run(case: Any) -> dict[str, Tensor]:
    """Return all outputs and intermediates of a case."""
    inputs, state = case.group("input"), case.group("state_dict")
    if "visual.conv1_alpha.weight" not in state:
        return extended(case.config, inputs, state)
    alpha = build(case.config, state)[1]
    image = inputs["image"]
    mask = inputs["alpha"] if "alpha" in inputs else normalise_alpha(inputs["alpha01"])
    found = {"output.embedding": alpha(image, mask)}
    found["output.embedding_unit"] = F.normalize(found["output.embedding"], dim=-1)
    for name, value in (("ones", 1.0), ("zeros", 0.0)):
        whole = normalise_alpha(torch.full_like(mask, value))
        found[f"output.embedding_alpha_{name}"] = alpha(image, whole)
    found["output.last_attention"] = alpha.last_attention(image, mask).flatten(0, 1)
    found["intermediate.block0_in"] = alpha.enter(alpha.tower.patches(image), mask)
    return found


def extended(config: Mapping[str, Any], inputs: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what an extended OpenAI CLIP gives, and its new and renamed tensors."""
    whole = extend(state)
    clip, alpha = build(config, whole)
    found = {f"output.extended.{key.removeprefix('visual.')}": value for key, value in whole.items()}
    images = alpha(inputs["image"], inputs["alpha"])
    texts = clip.model.encode_text(inputs["text_tokens"])
    cosines = F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).mT
    return found | {
        "output.image_embedding": images,
        "output.text_embedding": texts,
        "output.logits_per_image": clip.logit_scale * cosines,
    }
