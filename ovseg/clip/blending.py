"""Writing a CLIP as a folder that open_clip and every method here can load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ovseg.errors import ConfigError
from ovseg.system.files import atomic_write, check_writable


def blend(tuned: Any, original: Any, alpha: float) -> dict[str, Tensor]:
    """Return ``alpha * tuned + (1 - alpha) * original`` of the weights of two CLIPs (CLIPSelf, DeCLIP).

    Raises:
        ConfigError: Alpha is not in 0..1, or the CLIPs are of two kinds.
    """
    if not 0 <= alpha <= 1:
        raise ConfigError(f"alpha is {alpha}; expected 0 (the original) to 1 (the tuned one)")
    own, other = tuned.model.state_dict(), original.model.state_dict()
    if {key: value.shape for key, value in own.items()} != {key: value.shape for key, value in other.items()}:
        raise ConfigError(f"{tuned.name} and {original.name} have other weights; expected the CLIP it was tuned from")
    return {
        key: torch.lerp(other[key].float(), value.float(), alpha).to(value) if value.is_floating_point() else value
        for key, value in own.items()
    }


def save_clip(clip: Any, folder: str | Path, state: dict[str, Tensor] | None = None) -> Path:
    """Write config and weights of a CLIP; the folder then is one, such as ``maskclip/FOLDER``.

    Args:
        clip: Of open_clip.
        folder: Made if it is not there.
        state: Other weights for it; None for its own.

    Raises:
        InputError: It cannot be written.
    """
    from safetensors.torch import save_file

    place = check_writable(Path(folder))
    tensors = clip.model.state_dict() if state is None else state
    with atomic_write(place / "open_clip_model.safetensors") as temporary:
        save_file({key: value.cpu().contiguous().clone() for key, value in tensors.items()}, str(temporary))
    config = {"model_cfg": clip.model_cfg, "preprocess_cfg": {"mean": list(clip.mean), "std": list(clip.std)}}
    with atomic_write(place / "open_clip_config.json") as temporary:
        Path(temporary).write_text(json.dumps(config, indent=2), encoding="utf-8")
    return place
