"""CLIPs of EVA-02 as their authors store them (EVA-CLIP, CLIPSelf, DeCLIP), in the names of open_clip and timm.

Facts of the layout: github.com/wusize/CLIPSelf at 1c7fe9c, src/open_clip/eva_clip. The tables of the rotary positions
follow from the configuration and are repeated in every block; all else must find its place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

EVA = "EVA-CLIP's"
_MARK = re.compile(r"visual\.blocks\.\d+\.attn\.inner_attn_ln\.weight")
_ROTARY = re.compile(r"visual\.(?:blocks\.\d+\.attn\.)?rope\.freqs_(?:cos|sin)")
_PARTS = {
    "attn.q_bias": "attn.q_proj.bias",
    "attn.v_bias": "attn.v_proj.bias",
    "attn.inner_attn_ln": "attn.norm",
    "mlp.w1": "mlp.fc1_g",
    "mlp.w2": "mlp.fc1_x",
    "mlp.ffn_ln": "mlp.norm",
    "mlp.w3": "mlp.fc2",
}
_PART = re.compile(r"(visual\.blocks\.\d+\.)(" + "|".join(map(re.escape, _PARTS)) + r")(?=\.|$)")


def is_eva(state: Mapping[str, Tensor]) -> bool:
    """Tell by its names whether a state dict is in this layout."""
    return any(_MARK.fullmatch(key) for key in state)


def open_clip_name(key: str) -> str:
    """Return what open_clip calls a tensor of the authors; the text tower has the same names."""
    key = _PART.sub(lambda match: match[1] + _PARTS[match[2]], key)
    return f"visual.trunk.{key.removeprefix('visual.')}" if key.startswith("visual.") else key


def to_open_clip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Bring tensors to open_clip's names, without the tables of rotary positions."""
    return {open_clip_name(key): value for key, value in state.items() if not _ROTARY.fullmatch(key)}
