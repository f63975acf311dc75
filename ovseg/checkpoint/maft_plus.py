"""Checkpoints of MAFT+: the released ones (github.com/jiaosiyu1999/MAFT-Plus), and ours with or without CLIP inside.

The released ones hold a second CLIP, the one from which training started. It taught the tuned one and has no use after
that, so its tensors are checked and left out; who trains on reads it from its own file.
"""

from __future__ import annotations

from torch import Tensor, nn

from ovseg.checkpoint.fcclip import CLIP, DERIVED, HEAD, Weights, assign
from ovseg.checkpoint.strict import rename, translate
from ovseg.checkpoint.trained import trained_state

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


def load_maft_plus(model: nn.Module, weights: Weights) -> None:
    """Load a checkpoint strictly, of either layout; weights that are still on ``meta`` are put in place.

    Args:
        model: A `MAFTPlus` of the same configuration.
        weights: Of the original, with or without the second CLIP; or ours, all of it or what was trained.

    Raises:
        WeightsError: Names the first tensors that are missing, unexpected or mis-shaped.
    """
    own = model.state_dict()
    if weights.official:
        ours = _from_official(own, weights)
    else:
        wanted = own if weights.holds_clip else trained_state(model)
        ours = translate(wanted, weights.state, str, weights.source, "MAFT+")
    assign(model, ours)


def _from_official(own: dict[str, Tensor], weights: Weights) -> dict[str, Tensor]:
    """Return our tensors; those of the second CLIP have to be those of the first one by name and shape, or absent."""
    teacher = {key: value for key, value in weights.state.items() if key.startswith(_TEACHER)}
    rest = {key: value for key, value in weights.state.items() if key not in teacher}
    if teacher:
        clip = {key: value for key, value in own.items() if key.startswith("clip.")}
        derived = [pattern.replace("backbone", "backbone_t") for pattern in DERIVED]
        translate(clip, teacher, _teacher_name, weights.source, "the second CLIP of MAFT+", derived)
    return translate(own, rest, official_name, weights.source, "MAFT+", DERIVED)


def _teacher_name(key: str) -> str:
    return official_name(key).replace(_STUDENT, _TEACHER, 1)
