"""The maps of a result before they are filled: wide, or compact where a photograph is so large that memory counts."""

from __future__ import annotations

import torch
from torch import Tensor

from ovseg.result.parts import COMPACT

_CLASSES = 2**15 - 1  # that int16 can tell apart beside "no class"


def empty_maps(size: tuple[int, int], classes: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return labels (H, W) and scores (H, W) to be filled.

    They are int32 and float32; from `COMPACT` pixels on float16, and int16 as long as so many classes fit.
    """
    compact = size[0] * size[1] >= COMPACT
    labels = torch.empty(size, dtype=torch.int16 if compact and classes < _CLASSES else torch.int32, device=device)
    return labels, torch.empty(size, dtype=torch.float16 if compact else torch.float32, device=device)
