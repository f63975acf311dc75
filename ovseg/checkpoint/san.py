"""Checkpoints of SAN: the released ones (github.com/MendelXu/SAN), and ours with or without CLIP inside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from ovseg.checkpoint.strict import rename, translate

if TYPE_CHECKING:
    from ovseg.meta_arch.san import SAN

# The attention mask of the text tower, and the class weights of the loss for the classes it was trained with.
DERIVED = ("ov_classifier.attn_mask", "criterion.empty_weight")

_VIT = "side_adapter_network.vit_model."
_HEAD = (
    (r"side_adapter\.patch_embed\.(.+)", _VIT + r"patch_embed.proj.\1"),
    (r"side_adapter\.pos_embed", _VIT + "pos_embed"),
    (r"side_adapter\.blocks\.(\d+)\.((?:qkv|proj)\..+)", _VIT + r"blocks.\1.attn.\2"),
    (r"side_adapter\.blocks\.(\d+)\.(fc.+)", _VIT + r"blocks.\1.mlp.\2"),
    (r"side_adapter\.blocks\.(.+)", _VIT + r"blocks.\1"),
    (r"side_adapter\.fusion_layers\.(\d+)\.norm\.(.+)", r"side_adapter_network.fusion_layers.layer_\1.input_proj.0.\2"),
    (r"side_adapter\.fusion_layers\.(\d+)\.proj\.(.+)", r"side_adapter_network.fusion_layers.layer_\1.input_proj.1.\2"),
    (r"side_adapter\.(.+)", r"side_adapter_network.\1"),
    (r"position", "clip_visual_extractor.positional_embedding"),
    (r"void_row", "ov_classifier.bg_embed"),
    (r"sls_tokens", "clip_rec_head.sos_token"),
    (r"clip\.model\.visual\.((?:ln_post\.)?(?:proj|weight|bias))", r"clip_rec_head.\1"),
)
_CLIP = (
    (r"clip\.model\.visual\.(.+)", r"clip_visual_extractor.\1"),
    (r"clip\.model\.(.+)", r"ov_classifier.\1"),
)


def official_name(key: str, front: int) -> str:
    """Return the original's name of one of our tensors.

    Args:
        key: Ours.
        front: Blocks of CLIP before the tail, which the original numbers anew from 0.
    """
    start = "clip.model.visual.transformer.resblocks."
    if key.startswith(start):
        index, _, rest = key.removeprefix(start).partition(".")
        block = int(index)
        part = (
            f"clip_visual_extractor.resblocks.{block}" if block < front else f"clip_rec_head.resblocks.{block - front}"
        )
        return f"{part}.{rest}"
    return rename(key, (*_HEAD, *_CLIP))


def holds_clip(state: Mapping[str, Tensor]) -> bool:
    """Tell whether a checkpoint brings its CLIP along; the released ones do."""
    return any(key.startswith(("clip.", "clip_visual_extractor.")) for key in state)


def load_san(model: SAN, state: Mapping[str, Tensor], source: str) -> None:
    """Load a checkpoint strictly, of either layout.

    Args:
        model: Of the same configuration.
        state: Of the original, or ours; ours may lack all of CLIP.
        source: What to call the file in messages.

    Raises:
        WeightsError: Names the first tensors that are missing, unexpected or mis-shaped.
    """
    own = model.state_dict()
    if any(key.startswith("side_adapter_network.") for key in state):
        ours = translate(own, state, lambda key: official_name(key, model.front_blocks), source, "SAN", DERIVED)
    else:
        wanted = own if holds_clip(state) else {key: own[key] for key in own if not key.startswith("clip.")}
        ours = translate(wanted, state, str, source, "SAN")
    ours = {key: value.to(own[key].dtype) for key, value in ours.items()}
    model.load_state_dict(ours, strict=False, assign=True)  # an empty CLIP has no memory to copy to
