"""Writes a CLIP as open_clip has it: a folder that every method takes."""

from __future__ import annotations

import json
from pathlib import Path

from ovseg.checkpoint.strict import DERIVED
from ovseg.clip.base import BaseClip
from ovseg.clip.folders import OPEN_CLIP
from ovseg.errors import InputError
from ovseg.system.files import atomic_write, check_writable

CLIP_FOLDER, WEIGHTS = "clip", "open_clip_model.safetensors"


def save_clip(clip: BaseClip, folder: Path) -> None:
    """Write the config and the weights of a CLIP (atomically, each), float32 as it has them.

    Args:
        clip: Of open_clip; a tokenizer of its own is named by its config as before, and not copied.
        folder: Made where it is missing.

    Raises:
        InputError: It cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    check_writable(folder)
    derived = {pattern.replace("\\", "") for pattern in DERIVED}
    state = {
        key: value.detach().cpu().contiguous().clone()
        for key, value in clip.model.state_dict().items()
        if key not in derived
    }
    config = {
        "model_cfg": {**clip.model_cfg, "text_cfg": clip.text_cfg},
        "preprocess_cfg": {"mean": list(clip.mean), "std": list(clip.std)},
    }
    with atomic_write(folder / WEIGHTS) as temporary:
        try:
            save_file(state, temporary, {"format": "pt"})
        except SafetensorError as error:  # what its writer makes of a full disk
            raise InputError(f"cannot write '{folder / WEIGHTS}' ({error}); free some space") from error
    with atomic_write(folder / OPEN_CLIP) as temporary:
        temporary.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
