"""From the logits of two classifiers to the class scores that post-processing takes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ovseg.errors import ConfigError

FLOOR = 1e-8  # what the originals add to a probability before its logarithm


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """How the two classifiers are mixed.

    Attributes:
        alpha: Exponent of the CLIP's probability for classes that the head was trained on, 0..1.
        beta: The same for all others.
        valid_masks_only: Trust the trained classifier alone where a mask is empty on the CLIP's grid.

    Raises:
        ConfigError: An exponent is out of range.
    """

    alpha: float = 0.4
    beta: float = 0.8
    valid_masks_only: bool = False

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not (0 <= self.alpha <= 1 and 0 <= self.beta <= 1):
            raise ConfigError(f"ensemble has alpha {self.alpha} and beta {self.beta}; expected numbers in 0..1")

    @property
    def clip_alone(self) -> bool:
        """Whether CLIP names the masks, and the trained classifier only says which are objects."""
        return self.alpha == self.beta == 1 and not self.valid_masks_only

    def scores(self, trained: Tensor, own: Tensor, seen: Tensor | None, valid: Tensor | None = None) -> Tensor:
        """Mix two classifiers.

        Args:
            trained: Logits (B, Q, K + 1) of the trained one, "no object" last.
            own: Logits (B, Q, K + 1) of the CLIP; its "no object" does not count.
            seen: Bool (K,), which classes the head was trained on; None where it does not matter (`clip_alone`).
            valid: Bool (B, Q), masks that are not empty on the CLIP's grid; None where all count.

        Returns:
            Logarithms of probabilities (B, Q, K + 1), float32.
        """
        if seen is None:
            return with_void(own[..., :-1], void_share(trained))
        shares = torch.where(seen, self.alpha, self.beta)
        if valid is not None:
            shares = shares * valid[..., None]
        return with_void(fuse(trained[..., :-1], own[..., :-1], shares), void_share(trained))


CLIP_ALONE = Ensemble(alpha=1.0, beta=1.0)
"""That of MAFT+ without an adapter."""


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
