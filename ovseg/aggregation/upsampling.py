"""Upsampling of class maps that is guided by what the image shows."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ovseg.errors import ConfigError

OFFICIAL = (
    ("up", "up"),
    ("conv1", "conv.double_conv.0"),
    ("norm1", "conv.double_conv.1"),
    ("conv2", "conv.double_conv.3"),
    ("norm2", "conv.double_conv.4"),
)
"""Our names of the parts of `GuidedUpsampling`, and those in the code of CAT-Seg and SED."""
GROUP = 16
"""Channels that share the statistics of a group norm."""


class GuidedUpsampling(nn.Module):
    """Doubles the side of class maps and joins them with guidance by two convolutions: CAT-Seg's and SED's decoder."""

    def __init__(self, dim: int, out: int, guidance: int, of_each: int = 0) -> None:
        """Build it.

        Args:
            dim: Channels of the maps.
            out: Of the result; a multiple of 16.
            guidance: Of what all classes share.
            of_each: Of the guidance that every class has of its own.

        Raises:
            ConfigError: Channels cannot be grouped, or guidance leaves none for the maps.
        """
        super().__init__()
        if out < 1 or out % GROUP:
            raise ConfigError(f"decoder_dims has {out}; expected multiples of {GROUP}, by which channels are normed")
        if not 0 < guidance < dim:
            raise ConfigError(
                f"decoder_guidance has {guidance} where maps have {dim} channels; expected 1 to {dim - 1}"
            )
        self.up = nn.ConvTranspose2d(dim, dim - guidance, 2, 2)
        self.conv1 = nn.Conv2d(dim + of_each, out, 3, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(out // GROUP, out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(out // GROUP, out)

    def forward(self, x: Tensor, shared: Tensor, own: Tensor | None = None) -> Tensor:
        """Upsample maps (t, C, h, w): (t, out, 2 h, 2 w).

        Args:
            x: The maps.
            shared: What `share` made of the guidance of all classes.
            own: That of each class (t, G, 2 h, 2 w), where there is any.
        """
        up, weight = self.up(x), self.conv1.weight
        x = F.conv2d(up, weight[:, : up.shape[1]], padding=1) + shared
        if own is not None:
            x = x + F.conv2d(own, weight[:, -own.shape[1] :], padding=1)
        x = F.relu(self.norm1(x))
        return F.relu(self.norm2(self.conv2(x)))

    def share(self, guidance: Tensor) -> Tensor:
        """Return what the guidance (B, G, 2 h, 2 w) that all classes share adds behind the first convolution."""
        first = self.up.out_channels
        return F.conv2d(guidance, self.conv1.weight[:, first : first + guidance.shape[1]], padding=1)
