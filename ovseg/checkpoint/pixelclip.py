"""How the released checkpoints of PixelCLIP (github.com/cvlab-kaist/PixelCLIP) name what we do."""

from __future__ import annotations

from ovseg.checkpoint.loading import Official
from ovseg.checkpoint.strict import rename

_CLIP = "sem_seg_head.predictor.clip_model."
NAMES = ((r"clip\.model\.(.+)", _CLIP + r"\1"),)
"""Our names, and those of the original."""

OF_TRAINING = (r"sem_seg_head\.predictor\.prompt_tokens", r"teacher_encoder\..+", r"head\..+", r"dino\..+")
"""What is of no use after the training: words, the slow copy, the network of maps, DINO."""


def official_name(key: str) -> str:
    """Return the original's name of one of our tensors."""
    return rename(key, NAMES)


OFFICIAL = Official("PixelCLIP", _CLIP, official_name, OF_TRAINING)
