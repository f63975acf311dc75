"""CLIPs trained with the code of SLIP (LaCLIP on CC3M, CC12M and RedCaps; SynthCLIP), in the names of open_clip.

Their image tower is one of timm, bare, with its projection beside it; the text tower is named as OpenAI's.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

SLIP = "SLIP's"
_PROJECTION, _OF_TRAINING = "image_projection", "image_mlp."


def is_slip(state: Mapping[str, Tensor]) -> bool:
    """Tell by its names whether a state dict is in this layout."""
    return _PROJECTION in state and "visual.cls_token" in state and "visual.patch_embed.proj.weight" in state


def to_open_clip(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Bring tensors to open_clip's names; returns them, and the names of those of the self-supervised loss."""
    left = [key for key in state if key.startswith(_OF_TRAINING)]
    found = {}
    for key, value in state.items():
        if key == _PROJECTION:
            found["visual.head.proj.weight"] = value.T
        elif key not in left:
            found[f"visual.trunk.{key.removeprefix('visual.')}" if key.startswith("visual.") else key] = value
    return found, left
