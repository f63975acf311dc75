"""The decoder of CLIPSeg: tokens of a few blocks of CLIP, modulated by a prompt, become a map of that prompt."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ovseg.aggregation.checks import all_at_least
from ovseg.errors import ConfigError

PROMPTS_PER_PASS = 16
"""So many prompts share a pass; of each, tokens are as wide as `ffn` for a moment."""


class Decoder(nn.Module):
    """Reads the deepest tokens first; one of its steps is scaled and shifted by the prompt (FiLM).

    Attributes:
        layers: The blocks of CLIP, from 0, behind which its tokens are read.
        prefix: Leading tokens that belong to no place.
        patch: Side in pixels of what a token stands for.
        per_token: Rows and columns of the map that a token becomes.
        halo: Rows of tokens beside a row of them that its map depends on.
    """

    def __init__(
        self,
        width: int,
        embed_dim: int,
        patch: int,
        prefix: int,
        *,
        layers: tuple[int, ...] = (3, 6, 9),
        dim: int = 64,
        decoder_heads: int = 4,
        ffn: int = 2048,
        condition_at: int = 0,
        prompt_dim: int = 0,
        extra_blocks: int = 0,
        deepest_first: bool = True,
        refined: bool = False,
    ) -> None:
        """Make an untrained decoder.

        Args:
            width: Channels of CLIP's tokens.
            embed_dim: Numbers of a prompt.
            patch: Side of a patch in pixels.
            prefix: Leading tokens of CLIP that belong to no place.
            layers: Blocks of CLIP, from 0, behind which its tokens are read.
            dim: Channels of the decoder.
            decoder_heads: Heads of its attention.
            ffn: Channels inside its feed-forward halves.
            condition_at: The step, from 0, that the prompt modulates.
            prompt_dim: Prompts are brought to so many numbers by a fixed random layer before; 0 leaves them.
            extra_blocks: Residual blocks behind the steps.
            deepest_first: Whether the deepest tokens are read first, as all released ones have it.
            refined: Whether maps come from three convolutions instead of one.

        Raises:
            ConfigError: An option does not fit.
        """
        super().__init__()
        all_at_least(1, dim=dim, decoder_heads=decoder_heads, ffn=ffn)
        all_at_least(0, prompt_dim=prompt_dim, extra_blocks=extra_blocks)
        if list(layers) != sorted(set(layers)) or not layers:
            raise ConfigError(f"layers are {list(layers)}; expected blocks of CLIP in rising order, each once")
        if not 0 <= condition_at < len(layers):
            raise ConfigError(f"condition_at is {condition_at}; expected a step from 0 to {len(layers) - 1}")
        if dim % decoder_heads:
            raise ConfigError(f"dim is {dim} with {decoder_heads} decoder_heads; expected a multiple of them")
        self.layers, self.condition_at, self.deepest_first = tuple(layers), condition_at, deepest_first
        self.prefix, self.patch = prefix, patch
        self.reduce_prompt = nn.Linear(embed_dim, prompt_dim).requires_grad_(False) if prompt_dim else None
        self.scale = nn.Linear(prompt_dim or embed_dim, dim)
        self.shift = nn.Linear(prompt_dim or embed_dim, dim)
        self.reduces = nn.ModuleList(nn.Linear(width, dim) for _ in layers)
        self.blocks = nn.ModuleList(self._block(dim, decoder_heads, ffn) for _ in layers)
        self.extra = nn.ModuleList(self._block(dim, decoder_heads, ffn) for _ in range(extra_blocks))
        self.head = _refined_head(dim, patch) if refined else nn.ConvTranspose2d(dim, 1, patch, patch)
        self.per_token = (patch // 4) ** 2 if refined else patch
        self.halo = int(refined)

    @staticmethod
    def _block(dim: int, heads: int, ffn: int) -> nn.TransformerEncoderLayer:
        return nn.TransformerEncoderLayer(dim, heads, ffn, dropout=0.1, batch_first=True)

    def look(self, tokens: Sequence[Tensor]) -> Tensor:
        """Bring tokens to the width of the decoder, for every prompt to read.

        Args:
            tokens: Behind each of `layers`, in their order (B, N, C).

        Returns:
            (B, S, N, D) in the order of the steps.
        """
        steps = list(reversed(tokens)) if self.deepest_first else list(tokens)
        return torch.stack([reduce(own) for reduce, own in zip(self.reduces, steps, strict=True)], 1)

    def forward(self, seen: Tensor, prompts: Tensor, grid: tuple[int, int]) -> Tensor:
        """Read an image by prompts.

        Args:
            seen: What `look` gives of it (S, N, D).
            prompts: (K, E), not of unit length.
            grid: Rows and columns (h, w) of its patches.

        Returns:
            (K, D, h, w), what `logits` makes maps of.
        """
        if self.reduce_prompt is not None:
            prompts = self.reduce_prompt(prompts)
        scale, shift = self.scale(prompts)[:, None], self.shift(prompts)[:, None]
        found = seen.new_zeros(1, *seen.shape[1:])
        for step, (own, block) in enumerate(zip(seen, self.blocks, strict=True)):
            found = found + own
            if step == self.condition_at:
                found = scale * found + shift
            found = block(found)
        for block in self.extra:
            found = found + block(found)
        return found[:, self.prefix :].mT.unflatten(2, grid)

    def read(self, seen: Tensor, prompts: Tensor, grid: tuple[int, int]) -> Tensor:
        """Do the same a few prompts at a time, for answers."""
        return torch.cat([self(seen, part, grid) for part in prompts.split(PROMPTS_PER_PASS)])

    def logits(self, features: Tensor) -> Tensor:
        """Make maps (K, h * p, w * p) of what was read (K, D, h, w), p being `per_token`."""
        return self.head(features)[:, 0]


class PromptMaps:
    """The probabilities of prompts, made of what was read a few rows at a time; see `RowMaps`.

    The maps have 256 times as many places as the tokens that they come from, so they are never there together.
    """

    def __init__(self, decoder: Decoder, features: Tensor) -> None:
        """Hold what was read (K, D, h, w)."""
        self.decoder, self.features = decoder, features
        self.grid = (features.shape[2] * decoder.per_token, features.shape[3] * decoder.per_token)
        self.words = torch.arange(len(features), device=features.device)

    def rows(self, part: slice) -> Tensor:
        """Return some rows of all maps (K, r, w) float32."""
        side, halo = self.decoder.per_token, self.decoder.halo
        first, last = part.start // side, -(-part.stop // side)
        top, bottom = max(0, first - halo), min(self.features.shape[2], last + halo)
        inside = slice(part.start - top * side, part.stop - top * side)
        found = [
            self.decoder.logits(own)[:, inside].float().sigmoid()
            for own in self.features[:, :, top:bottom].split(PROMPTS_PER_PASS)
        ]
        return torch.cat(found)


def _refined_head(dim: int, patch: int) -> nn.Sequential:
    side = patch // 4
    if side < 1:
        raise ConfigError(
            f"a refined head needs patches of at least 4 pixels, and CLIP has {patch}; set refined to false"
        )
    return nn.Sequential(
        nn.Conv2d(dim, dim, 3, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(dim, dim // 2, side, side),
        nn.ReLU(),
        nn.ConvTranspose2d(dim // 2, 1, side, side),
    )
