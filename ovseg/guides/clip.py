"""CLIP as its own guide: no second backbone, hence no download and no second pass."""

from __future__ import annotations

from torch import Tensor

from ovseg.clip.features import Context, Need
from ovseg.errors import ConfigError
from ovseg.guides.base import GUIDE_REGISTRY, Guide, join_heads


class ClipGuide(Guide):
    """Features of an earlier block of the CLIP that is recalibrated.

    ``clip:0.5`` reads where half of the blocks have run; ``clip`` alone three quarters. Query, key and value are those
    of the block that follows.
    """

    def __init__(self, argument: str, facet: str) -> None:
        """Read the share of the depth.

        Raises:
            ConfigError: It is no number between 0 and 1.
        """
        super().__init__()
        try:
            self.share = float(argument or 0.75)
        except ValueError:
            self.share = -1.0
        if not 0 < self.share < 1:
            raise ConfigError(f"guide 'clip:{argument}' names no share of the depth; expected for example clip:0.75")
        self.facet = facet

    def needs_of(self, depth: int) -> Need:
        """Ask for the tokens that leave one block."""
        return Need(hidden=(self._layer(depth),))

    def forward(self, context: Context) -> Tensor:
        """Return features (B, C, h, w) on the grid of the patches."""
        tower, depth = context.tower, context.tower.depth
        tokens = context.hidden[self._layer(depth)]
        if self.facet == "token":
            return context.lay_out(tokens)
        query, key, value = context.blocks[self._layer(depth) + 1].qkv(tokens)
        heads = {"query": query, "key": key, "value": value, "query+key": query + key}[self.facet]
        return join_heads(tower.split(heads)[1], context.grid)

    def _layer(self, depth: int) -> int:
        return min(max(round(self.share * depth) - 1, 0), depth - 2)


@GUIDE_REGISTRY.register()
def clip(*, argument: str = "", facet: str = "token") -> Guide:
    """Build the guide ``clip:SHARE``."""
    return ClipGuide(argument, facet)
