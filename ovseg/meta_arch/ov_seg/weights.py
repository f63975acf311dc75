"""How the released checkpoints of OVSeg (github.com/facebookresearch/ov-seg) name what we do."""

from __future__ import annotations

from ovseg.checkpoint.loading import Official
from ovseg.checkpoint.strict import rename

# Class weights of the loss for the classes it was trained with, and the normalisation of CLIP.
DERIVED = (r"criterion\.empty_weight", r"clip_adapter\.pixel_(mean|std)")

HEAD = (
    (r"proposer\.pixel_decoder\.encoder\.(.+)", r"sem_seg_head.pixel_decoder.transformer.encoder.layers.\1"),
    (r"proposer\.predictor\.((?:layers|norm)\..+)", r"sem_seg_head.predictor.transformer.decoder.\1"),
    (r"proposer\.(.+)", r"sem_seg_head.\1"),
    (r"prompts\.embedding", "clip_adapter.clip_model.visual.mask_embedding"),
    (r"void_row", "clip_adapter.non_object_embedding"),
    (r"clip\.model\.(.+)", r"clip_adapter.clip_model.\1"),
)


def official_name(key: str) -> str:
    """Return the original's name of one of our tensors."""
    return rename(key, HEAD)


OFFICIAL = Official("OVSeg", "sem_seg_head.", official_name, DERIVED)
