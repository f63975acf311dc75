"""From the logits of two classifiers to the class scores that post-processing takes."""

from __future__ import annotations

import torch
from torch import Tensor

FLOOR = 1e-8  # what the originals add to a probability before its logarithm


def fuse(inside: Tensor, outside: Tensor, shares: Tensor) -> Tensor:
    """Mix the class probabilities of two classifiers geometrically.

    Args:
        inside: Logits (B, Q, K) of the trained classifier, without "no object".
        outside: Logits (B, Q, K) of the frozen CLIP. They do not count, whatever they are, where its share is 0.
        shares: Exponents (..., K) of the CLIP's probability, 0..1, broadcast; the other's is 1 - share.

    Returns:
        Logarithms (B, Q, K), float32, not normalised.
    """
    trained, frozen = inside.float().log_softmax(-1), outside.float().log_softmax(-1)
    return torch.where(shares > 0, (1 - shares) * trained + shares * frozen, trained)


def with_void(logits: Tensor, void: Tensor) -> Tensor:
    """Put the share of "no object" beside class probabilities.

    Args:
        logits: (B, Q, K) of the classes; their softmax is shared among what "no object" leaves.
        void: Probability (B, Q, 1) of "no object".

    Returns:
        Class scores (B, Q, K + 1), float32: logarithms of probabilities, the last that of "no object".
    """
    return torch.cat([logits.float().softmax(-1) * (1 - void), void], -1).add(FLOOR).log()


def void_share(logits: Tensor) -> Tensor:
    """Return the probability (B, Q, 1) of "no object" from logits (B, Q, K + 1) that end with it; float32."""
    return logits.float().softmax(-1)[..., -1:]
