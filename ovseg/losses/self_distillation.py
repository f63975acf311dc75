"""How near regions of a dense map come to what a frozen CLIP makes of their crops."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def cosine_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return one minus the mean cosine () of paired vectors (n, D), whatever their lengths (CLIPSelf)."""
    return 1 - F.cosine_similarity(student.float(), teacher.float(), dim=-1).mean()


def view_agreement(student: Tensor, teacher: Tensor, temperature: float, sharpness: float) -> Tensor:
    """Return the cross entropy () between what a teacher says of large views and a student of all others (DINO, SILC).

    Args:
        student: Logits (B, V, K) of views, the first of which are the teacher's.
        teacher: Centred logits (B, T, K) of these, T <= V.
        temperature: Of the student's softmax.
        sharpness: Of the teacher's.
    """
    taught = (teacher / sharpness).softmax(-1)
    costs = -torch.einsum("btk,bvk->tv", taught, (student / temperature).log_softmax(-1)) / len(student)
    others = ~torch.eye(*costs.shape, dtype=torch.bool, device=costs.device)
    return costs[others].mean()
