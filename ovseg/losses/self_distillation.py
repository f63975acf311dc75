"""How near regions of a dense map come to what a frozen CLIP makes of their crops."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def cosine_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return one minus the mean cosine () of paired vectors (n, D), whatever their lengths (CLIPSelf)."""
    return 1 - F.cosine_similarity(student.float(), teacher.float(), dim=-1).mean()
