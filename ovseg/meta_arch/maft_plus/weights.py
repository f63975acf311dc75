"""How the released checkpoints of MAFT+ (github.com/jiaosiyu1999/MAFT-Plus) name what we do.

They hold a second CLIP, the one from which training started. It taught the tuned one and has no use after
that, so its tensors are checked and left out; who trains on reads it from its own file.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ovseg.checkpoint.loading import Official, Weights
from ovseg.checkpoint.mask_heads import CLIP, DECODER, DERIVED, HEAD
from ovseg.checkpoint.strict import rename, translate

_STUDENT, _TEACHER = "backbone.", "backbone_t."
_TRANSFER = "cdt.cross_atten."
TRANSFER = (
    (r"transfer\.attention\.(.+)", _TRANSFER + r"multihead_attn.\1"),
    (r"transfer\.norm\.(.+)", _TRANSFER + r"norm.\1"),
    (r"transfer\.linear\.(.+)", _TRANSFER + r"MLP.\1"),
)
"""Our names of the transfer, and those of the original; the rest is as in FC-CLIP."""


def official_name(key: str) -> str:
    """Return the original's name of one of our tensors."""
    return rename(key, (*TRANSFER, *CLIP, *HEAD))


def _check_teacher(own: Mapping[str, Tensor], weights: Weights) -> dict[str, Tensor]:
    """Return what is not of the second CLIP, which has to be like the first one by name and shape, or absent."""
    teacher = {key: value for key, value in weights.state.items() if key.startswith(_TEACHER)}
    if teacher:
        clip = {key: value for key, value in own.items() if key.startswith("clip.")}
        derived = [pattern.replace("backbone", "backbone_t") for pattern in DERIVED]
        translate(clip, teacher, _teacher_name, weights.source, "the second CLIP of MAFT+", derived)
    return {key: value for key, value in weights.state.items() if key not in teacher}


def _teacher_name(key: str) -> str:
    return official_name(key).replace(_STUDENT, _TEACHER, 1)


OFFICIAL = Official("MAFT+", DECODER, official_name, DERIVED, _check_teacher)
