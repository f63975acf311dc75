"""Reading of checkpoints that hold more than tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ovseg.clip.loading import read_state_dict


def read_part(path: str | Path, part: str) -> dict[str, Tensor]:
    """Read the tensors of one part of a pickled dict, or all tensors of a file that has no such part.

    Nothing but tensors and plain values is unpickled.

    Args:
        path: Safetensors or a pickle.
        part: Key of the part, such as ``model_state_dict``.

    Raises:
        WeightsError: The file is missing, truncated, or holds anything but tensors.
    """
    try:
        raw: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # safetensors, or broken: then the general reader says so
        raw = None
    if isinstance(raw, Mapping) and isinstance(raw.get(part), Mapping):
        return {str(key): value for key, value in raw[part].items()}
    return read_state_dict(path)[0]
