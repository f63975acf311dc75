"""How the released checkpoints of SAN (github.com/MendelXu/SAN) name what we do."""

from __future__ import annotations

from functools import partial

from ovseg.checkpoint.loading import Official
from ovseg.checkpoint.strict import rename

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


def official(front: int) -> Official:
    """Return the original's layout for a SAN with so many blocks of CLIP before the tail."""
    return Official("SAN", "side_adapter_network.", partial(official_name, front=front), DERIVED)
