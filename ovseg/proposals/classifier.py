"""The text classifier of all models that propose masks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg.system.device import to_device

LARGEST_SCALE = 100.0


def class_scale(log_scale: Tensor) -> Tensor:
    """Return the factor between cosines and logits of a learned logarithm; CLIP never lets it exceed 100."""
    return log_scale.exp().clamp(max=LARGEST_SCALE)


def class_logits(x: Tensor, rows: Tensor, scale: Tensor | float, query_to_class: Tensor, void: bool) -> Tensor:
    """Compare embeddings with texts; the best name of a class counts.

    Args:
        x: Embeddings (B, Q, D) of any length.
        rows: Texts (T, D), or (B, T, D) where every image has its own; with ``void`` one more row, the last. They are
            taken as they are: unit rows give cosines.
        scale: What cosines are multiplied with.
        query_to_class: Class (T,) of each text, in 0..K-1; every class has one.
        void: Whether there is a row for "no object".

    Returns:
        (B, Q, K), or with ``void`` (B, Q, K + 1) whose last column is that of "no object".
    """
    cosines = F.normalize(x, dim=-1) @ rows.to(x).mT
    logits = scale * cosines
    names, rest = logits.split([len(query_to_class), int(void)], dim=-1)
    return torch.cat([best_of_class(names, query_to_class), rest], -1) if void else best_of_class(names, query_to_class)


def best_of_class(logits: Tensor, query_to_class: Tensor) -> Tensor:
    """Take the largest logit of each class: (..., T) to (..., K); arguments as `class_logits`."""
    classes = query_to_class.cpu()  # where it comes from: values are read without a wait for the device of the logits
    count = int(classes.max()) + 1
    if count == len(classes) and bool((classes[1:] > classes[:-1]).all()):
        return logits
    found = logits.new_full((*logits.shape[:-1], count), -torch.inf)
    return found.scatter_reduce(-1, to_device(classes, logits.device).expand_as(logits), logits, "amax")
