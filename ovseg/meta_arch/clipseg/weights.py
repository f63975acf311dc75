"""How the authors' checkpoints of CLIPSeg (github.com/timojl/clipseg) and those of transformers name what we do."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ovseg.checkpoint.hugging_face import CLIP, to_open_clip
from ovseg.checkpoint.loading import Official, Weights
from ovseg.checkpoint.strict import rename

NAMES = (
    (r"decoder\.scale\.(.+)", r"film_mul.\1"),
    (r"decoder\.shift\.(.+)", r"film_add.\1"),
    (r"decoder\.reduce_prompt\.(.+)", r"reduce_cond.\1"),
    (r"decoder\.extra\.(.+)", r"extra_blocks.\1"),
    (r"decoder\.head\.(.+)", r"trans_conv.\1"),
    (r"decoder\.(.+)", r"\1"),
    (r"clip\.model\.visual\.(.+)", r"model.\1"),
    (r"clip\.model\.(.+)", r"clip_model.\1"),
)
"""Our names, and those of the authors."""

_OLD = r"decoder\."
_IN_TRANSFORMERS = (
    (_OLD + r"film_mul\.(.+)", r"decoder.scale.\1"),
    (_OLD + r"film_add\.(.+)", r"decoder.shift.\1"),
    (_OLD + r"transposed_convolution\.(.+)", r"decoder.head.\1"),
    (_OLD + r"layers\.(\d+)\.self_attn\.out_proj\.(.+)", r"decoder.blocks.\1.self_attn.out_proj.\2"),
    (_OLD + r"layers\.(\d+)\.mlp\.fc([12])\.(.+)", r"decoder.blocks.\1.linear\2.\3"),
    (_OLD + r"layers\.(\d+)\.layer_norm([12])\.(.+)", r"decoder.blocks.\1.norm\2.\3"),
)
_APART = re.compile(_OLD + r"layers\.(\d+)\.self_attn\.([qkv])_proj\.(weight|bias)")
UNUSED = ("reduce.weight", "reduce.bias")
"""The authors store a layer that nothing calls."""


def official_name(key: str) -> str:
    """Return the authors' name of one of our tensors."""
    return rename(key, NAMES)


def _whole(own: Mapping[str, Tensor], weights: Weights) -> Mapping[str, Tensor]:
    """Return the authors' tensors without the layer that nothing calls; of CLIP what they did not store is ours."""
    state = {key: value for key, value in weights.state.items() if key not in UNUSED}
    for key, value in own.items():
        if key.startswith("clip."):
            state.setdefault(official_name(key), value)
    # A whole state dict of the original has the image tower twice.
    return {key: value for key, value in state.items() if not key.startswith("clip_model.visual.")}


OFFICIAL = Official("CLIPSeg", "film_mul.", official_name, check_rest=_whole)


def from_transformers(weights: Weights | None) -> Weights | None:
    """Bring a ``CLIPSegForImageSegmentation`` of transformers to our names; other weights stay as they are.

    Names that it does not know are left for the strict loader to name them.
    """
    if weights is None or "decoder.film_mul.weight" not in weights.state:
        return weights
    state = weights.state
    clip = {key.removeprefix("clip."): value for key, value in state.items() if key.startswith("clip.")}
    found = {f"clip.model.{key}": value for key, value in to_open_clip(clip, CLIP).items()}
    for key, value in state.items():
        if key.startswith("clip."):
            continue
        apart = _APART.fullmatch(key)
        three = [f"{key[: apart.start(2)]}{part}{key[apart.end(2) :]}" for part in "qkv"] if apart else []
        if apart and all(name in state for name in three):
            found[f"decoder.blocks.{apart[1]}.self_attn.in_proj_{apart[3]}"] = torch.cat([state[n] for n in three])
        else:
            found[rename(key, _IN_TRANSFORMERS)] = value
    return weights._replace(state=found)
