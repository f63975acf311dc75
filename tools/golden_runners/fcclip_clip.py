"""The convolutional CLIPs of the cases of FC-CLIP and MAFT+, and loading of parts of a model by the original's keys."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any
from unittest import mock

import timm
import torch
from torch import Tensor, nn

from ovseg.checkpoint.strict import translate
from ovseg.clip.conv_clip import ConvClip, check_config
from ovseg.clip.open_clip_internals import build_model
from ovseg.meta_arch.fcclip.weights import official_name

TINY_TEXT = {"context_length": 4, "vocab_size": 8, "width": 8, "heads": 1, "layers": 1}


def build_clip(config: Mapping[str, Any], state: Mapping[str, Tensor], embed_dim: int = 0) -> ConvClip:
    """Build the CLIP of a case; towers that the case does not hold are tiny random ones.

    Args:
        config: ``type``, sizes and projection of the image tower; or, without ``type``, ``text_cfg``.
        state: Its weights by the names of open_clip.
        embed_dim: Of the joint space; 0 takes that of the config.
    """
    model_cfg = {
        "embed_dim": embed_dim or config["embed_dim"],
        "vision_cfg": vision_config(config),
        "text_cfg": config.get("text_cfg", TINY_TEXT),
    }
    own_trunk = {key: config[key] for key in ("depths", "dims") if key in config}
    with mock.patch("timm.create_model", partial(timm.create_model, **own_trunk)):
        model = build_model(model_cfg, "golden case", check_config)
    model.load_state_dict({**model.state_dict(), **state})
    return ConvClip(model, model_cfg, "golden case")


def vision_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return open_clip's configuration of the image tower of a case."""
    kind = config.get("type", "none")
    if kind == "convnext":
        base, proj = config["timm_base"], config["proj"]
        return {"timm_model_name": base, "timm_pool": "", "timm_proj": proj, "image_size": config["image_size"]}
    if kind == "resnet":
        head_width = config["width"] * 32 // config["heads"]
        return {key: config[key] for key in ("layers", "width", "image_size")} | {"head_width": head_width}
    return {"layers": [1, 1, 1, 1], "width": 2, "image_size": 32, "head_width": 64}


def load_part(module: nn.Module, state: Mapping[str, Tensor], ours: str, original: str) -> None:
    """Load a part of a model from the keys of its case, which lack the start that they have in a checkpoint.

    Args:
        module: The part.
        state: Its weights by the names of the original.
        ours: Where the part stands in our model.
        original: Where it stands in theirs.
    """
    own = {f"{ours}{key}": value for key, value in module.state_dict().items()}
    whole = {f"{original}{key}": value for key, value in state.items()}
    found = translate(own, whole, official_name, "the golden case", type(module).__name__)
    module.load_state_dict({key.removeprefix(ours): value for key, value in found.items()})


def query_to_class(names_per_class: Tensor) -> Tensor:
    """Return the class (T,) of each name, given how many names each class has."""
    return torch.arange(len(names_per_class)).repeat_interleave(names_per_class.long())


def seen_names(inputs: Mapping[str, Tensor]) -> frozenset[str]:
    """Return the names, as of `product.make_words`, of the classes that a case calls seen; none where it is silent."""
    seen = inputs.get("category_overlapping_mask", torch.zeros(0))
    return frozenset(f"class {i}" for i in seen.nonzero().flatten().tolist())
