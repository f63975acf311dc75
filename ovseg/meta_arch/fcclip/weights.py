"""How the released checkpoints of FC-CLIP (github.com/bytedance/fc-clip) name what we do; those of MAFT+ alike."""

from __future__ import annotations

from ovseg.checkpoint.loading import Official
from ovseg.checkpoint.mask_heads import CLIP, DECODER, DERIVED, HEAD
from ovseg.checkpoint.strict import rename


def official_name(key: str) -> str:
    """Return the original's name of one of our tensors."""
    return rename(key, (*CLIP, *HEAD))


OFFICIAL = Official("FC-CLIP", DECODER, official_name, DERIVED)
