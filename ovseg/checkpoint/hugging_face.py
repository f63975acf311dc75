"""CLIP and SigLIP as transformers names their tensors, in the names and shapes of open_clip.

transformers keeps queries, keys and values apart, projections as linear layers (transposed) and both towers below
``vision_model.`` and ``text_model.``; open_clip packs the three, multiplies with its projections, and has SigLIP's
image tower from timm.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ovseg.checkpoint.strict import Renames, rename

_LAYER = r"encoder\.layers\.(\d+)\."
_BLOCK = (("layer_norm1", "ln_1"), ("layer_norm2", "ln_2"), (r"mlp\.fc1", "mlp.c_fc"), (r"mlp\.fc2", "mlp.c_proj"))
_TIMM_BLOCK = (("layer_norm1", "norm1"), ("layer_norm2", "norm2"), (r"mlp\.fc1", "mlp.fc1"), (r"mlp\.fc2", "mlp.fc2"))


def _tower(start: str, blocks: str, parts: Renames, out: str) -> Renames:
    """Return the renames of the layers of a tower."""
    own = ((rf"{start}{_LAYER}{old}\.(.+)", rf"{blocks}\g<1>.{new}.\g<2>") for old, new in parts)
    return (*own, (rf"{start}{_LAYER}self_attn\.out_proj\.(.+)", rf"{blocks}\g<1>.{out}.\g<2>"))


def _text(target: str) -> Renames:
    """Return the renames of a text tower of open_clip's own, below ``target``."""
    start = r"text_model\."
    return (
        *_tower(start, f"{target}transformer.resblocks.", _BLOCK, "attn.out_proj"),
        (rf"{start}embeddings\.token_embedding\.weight", f"{target}token_embedding.weight"),
        (rf"{start}embeddings\.position_embedding\.weight", f"{target}positional_embedding"),
        (rf"{start}final_layer_norm\.(.+)", rf"{target}ln_final.\g<1>"),
    )


_CLIP: Renames = (
    *_text(""),
    *_tower(r"vision_model\.", "visual.transformer.resblocks.", _BLOCK, "attn.out_proj"),
    (r"vision_model\.embeddings\.class_embedding", "visual.class_embedding"),
    (r"vision_model\.embeddings\.patch_embedding\.weight", "visual.conv1.weight"),
    (r"vision_model\.embeddings\.position_embedding\.weight", "visual.positional_embedding"),
    (r"vision_model\.pre_layr?norm\.(.+)", r"visual.ln_pre.\g<1>"),
    (r"vision_model\.post_layernorm\.(.+)", r"visual.ln_post.\g<1>"),
    (r"visual_projection\.weight", "visual.proj"),
    (r"text_projection\.weight", "text_projection"),
)
_SIGLIP: Renames = (
    *_text("text."),
    *_tower(r"vision_model\.", "visual.trunk.blocks.", _TIMM_BLOCK, "attn.proj"),
    (r"vision_model\.embeddings\.patch_embedding\.(.+)", r"visual.trunk.patch_embed.proj.\g<1>"),
    (r"vision_model\.embeddings\.position_embedding\.weight", "visual.trunk.pos_embed"),
    (r"vision_model\.post_layernorm\.(.+)", r"visual.trunk.norm.\g<1>"),
    (r"vision_model\.head\.probe", "visual.trunk.attn_pool.latent"),
    (r"vision_model\.head\.attention\.out_proj\.(.+)", r"visual.trunk.attn_pool.proj.\g<1>"),
    (r"vision_model\.head\.layernorm\.(.+)", r"visual.trunk.attn_pool.norm.\g<1>"),
    (r"vision_model\.head\.mlp\.(.+)", r"visual.trunk.attn_pool.mlp.\g<1>"),
    (r"text_model\.head\.(.+)", r"text.text_projection.\g<1>"),
)
_CHANGED: dict[str, Callable[[Tensor], Tensor]] = {
    "visual.proj": lambda weight: weight.T,
    "text_projection": lambda weight: weight.T,
    "visual.trunk.pos_embed": lambda weight: weight.reshape(1, *weight.shape[-2:]),
}
_APART = re.compile(rf"(vision|text)_model\.{_LAYER}self_attn\.([qkv])_proj\.(weight|bias)")
_PROBE = re.compile(r"vision_model\.head\.attention\.in_proj_(weight|bias)")
_POSITION_IDS = re.compile(r"(vision|text)_model\.embeddings\.position_ids")

CLIP, SIGLIP = "the CLIPModel of transformers", "the SiglipModel of transformers"


def kind_of(state: Mapping[str, Tensor]) -> str:
    """Return which of the two a state dict is, `CLIP` or `SIGLIP`, by its names; empty for any other."""
    if "text_model.embeddings.token_embedding.weight" not in state:
        return ""
    if "visual_projection.weight" in state and "vision_model.embeddings.class_embedding" in state:
        return CLIP
    patches = state.get("vision_model.embeddings.patch_embedding.weight")
    return SIGLIP if "vision_model.head.probe" in state and patches is not None and patches.ndim == 4 else ""


def to_open_clip(state: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    """Bring the tensors of a CLIP or SigLIP of transformers to open_clip's names and shapes.

    Args:
        state: Of transformers.
        kind: `CLIP` or `SIGLIP`.

    Returns:
        Tensors by open_clip's names. Names that neither has stay what they are, for the strict loader to name them.
    """
    renames, found = _CLIP if kind == CLIP else _SIGLIP, dict[str, Tensor]()
    for key, value in state.items():
        if _POSITION_IDS.fullmatch(key):  # a range of numbers, which older versions store
            continue
        apart, probe = _APART.fullmatch(key), _PROBE.fullmatch(key) if kind == SIGLIP else None
        three = [f"{key[: apart.start(3)]}{part}{key[apart.end(3) :]}" for part in "qkv"] if apart else []
        if apart and all(name in state for name in three):
            if apart[3] == "q":
                found[_packed_name(apart, kind)] = torch.cat([state[name] for name in three])
            continue
        if probe:
            start, width = "visual.trunk.attn_pool.", len(value) // 3
            found[f"{start}q.{probe[1]}"], found[f"{start}kv.{probe[1]}"] = value[:width], value[width:]
            continue
        name = rename(key, renames)
        found[name] = _CHANGED[name](value) if name in _CHANGED else value
    return found


def _packed_name(match: re.Match[str], kind: str) -> str:
    """Return where queries, keys and values lie together."""
    tower, layer, _, part = match.groups()
    if tower == "vision" and kind == SIGLIP:
        return f"visual.trunk.blocks.{layer}.attn.qkv.{part}"
    start = "visual." if tower == "vision" else "text." if kind == SIGLIP else ""
    return f"{start}transformer.resblocks.{layer}.attn.in_proj_{part}"
