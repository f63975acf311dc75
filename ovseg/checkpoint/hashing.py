"""Weights are told apart by what they are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor


def hash_tensors(tensors: Iterable[tuple[str, Tensor]], besides: str = "") -> str:
    """Return 16 hex digits that say which tensors these are, by names, shapes, dtypes and values.

    Args:
        tensors: By name, in any order.
        besides: What else tells them apart, such as the configuration of what they are the weights of.
    """
    digest = hashlib.sha256(besides.encode())
    for key, tensor in sorted(tensors):
        digest.update(f"{key}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
