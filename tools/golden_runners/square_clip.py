"""The CLIP of cases that tell its size in the words of open_clip's and OpenAI's towers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from golden_runners.common import build_clip
from ovseg.clip import ViTClip


def square_clip(case: Any) -> ViTClip:
    """Build the CLIP of a case from its ``image_size`` or ``input_resolution``, ``output_dim``, ``act`` and weights."""
    config: Mapping[str, Any] = case.config
    state: dict[str, Tensor] = case.group("state_dict")
    grid = config.get("image_size", config.get("input_resolution")) // config["patch_size"]
    hidden = state["visual.transformer.resblocks.0.mlp.c_fc.weight"].shape[0]
    own = {
        "pretrain_grid": (grid, grid),
        "embed_dim": config["output_dim"],
        "activation": config["act"],
        "mlp_ratio": hidden / config["width"],
    }
    return build_clip({**config, **own}, state)
