"""Checkpoints of PixelCLIP (github.com/cvlab-kaist/PixelCLIP): the CLIP in them, without what only taught it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CLIP = "sem_seg_head.predictor.clip_model."
PROMPTS = "sem_seg_head.predictor.prompt_tokens"
OF_TRAINING = (PROMPTS, "teacher_encoder.", "head.", "dino.")
"""How the names start of the learnable words, the slow copy, the network of maps, and DINO."""


def is_pixelclip(state: Mapping[str, Any]) -> bool:
    """Tell by its names whether a checkpoint is of this kind: a training that holds its CLIP twice."""
    return PROMPTS in state and any(key.startswith(CLIP) for key in state)


def clip_of(state: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the tensors of the CLIP by the names of its authors, strange ones by their own, and what was left out."""
    left = [key for key in state if key.startswith(OF_TRAINING)]
    found = {key.removeprefix(CLIP): value for key, value in state.items() if not key.startswith(OF_TRAINING)}
    return found, left
