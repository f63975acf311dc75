"""CAT-Seg's decoder: the refined map of every class at four times the side, led by maps of CLIP's middle blocks."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ovseg.aggregation.checks import all_at_least, check_count
from ovseg.aggregation.upsampling import GuidedUpsampling


class Decoder(nn.Module):
    """Doubles the side of maps twice, and makes a logit of what is there.

    Attributes:
        tapped: Channels of the maps of CLIP's middle blocks.
    """

    def __init__(
        self,
        *,
        hidden: int = 128,
        decoder_dims: tuple[int, ...] = (64, 32),
        decoder_guidance: tuple[int, ...] = (32, 16),
        up_channels: tuple[int, ...] = (256, 128),
    ) -> None:
        """Build it untrained.

        Args:
            hidden: Channels of the maps.
            decoder_dims: At twice and at four times the side, multiples of 16.
            decoder_guidance: Those that CLIP's middle blocks give.
            up_channels: Of the maps of CLIP's middle blocks.

        Raises:
            ConfigError: There are not two numbers of each, or they cannot be used.
        """
        super().__init__()
        check_count(2, decoder_dims=decoder_dims, decoder_guidance=decoder_guidance, up_channels=up_channels)
        all_at_least(1, hidden=hidden, decoder_guidance=decoder_guidance, up_channels=up_channels)
        self.tapped = (up_channels[0], up_channels[1])
        pairs = zip(up_channels, decoder_guidance, strict=True)
        self.guides = nn.ModuleList(nn.Conv2d(inside, out, 3, padding=1) for inside, out in pairs)
        sizes = zip((hidden, decoder_dims[0]), decoder_dims, decoder_guidance, strict=True)
        self.ups = nn.ModuleList(GuidedUpsampling(*own) for own in sizes)
        self.head = nn.Conv2d(decoder_dims[1], 1, 3, padding=1)

    def look(self, first: Tensor, second: Tensor) -> list[Tensor]:
        """Return what leads the upsampling of all classes, behind the first convolutions, at both sizes.

        Args:
            first: The upsampled map of CLIP's middle blocks at twice the side (V, C, 2 h, 2 w).
            second: At four times the side (V, C, 4 h, 4 w).
        """
        ups: Any = self.ups
        led = [F.relu(guide(own)) for guide, own in zip(self.guides, (first, second), strict=True)]
        return [up.share(own) for up, own in zip(ups, led, strict=True)]

    def forward(self, maps: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """Return the logits (t, 4 h, 4 w) of maps (t, C, h, w), led by what `look` gave for one view."""
        for up, shared in zip(self.ups, (first, second), strict=True):
            maps = up(maps, shared)
        return self.head(maps)[:, 0]
