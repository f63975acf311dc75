"""SAM2CLIP: a neck that turns the levels of a convolutional CLIP into what SAM's image encoder would give."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ovseg.errors import ConfigError
from ovseg.meta_arch.ovsam.library import sam_modules

STRIDES = (4, 8, 16, 32)
CELL = 16
"""Side in pixels of what one feature of SAM stands for."""


class Projected(nn.Module):
    """One level brought to the cells of SAM; the name of its layer is that of the released files."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.projection: nn.Module
        if stride > CELL:
            self.projection = nn.ConvTranspose2d(channels, width, stride // CELL, stride // CELL)
        else:
            self.projection = nn.Conv2d(channels, width, CELL // stride, CELL // stride)

    def forward(self, level: Tensor) -> Tensor:
        """Return (B, h, w, E) of a level (B, C, H, W)."""
        found: Tensor = self.projection(level).permute(0, 2, 3, 1)
        return found


class Sam2Clip(nn.Module):
    """The neck (Yuan et al., "Open-Vocabulary SAM", ECCV 2024): levels added on SAM's cells, SAM blocks, SAM's neck.

    Attributes:
        used: Which of the levels it looks at, by number from the finest.
    """

    def __init__(
        self,
        channels: Sequence[int],
        cells: tuple[int, int],
        out: int = 256,
        used: Sequence[int] = (0, 1, 2, 3),
        *,
        width: int = 1280,
        depth: int = 5,
        heads: int = 16,
        window: int = 14,
        whole: Sequence[int] = (4,),
    ) -> None:
        """Put it together, untrained.

        Args:
            channels: Of the levels at strides 4, 8, 16 and 32.
            cells: Rows and columns of SAM's features.
            out: Their channels.
            used: See above.
            width: Channels of the blocks, E.
            depth: Blocks.
            heads: Of attention.
            window: Cells of a window of attention along each side.
            whole: Numbers of the blocks that attend to the whole image.

        Raises:
            ConfigError: Heads do not divide the width.
        """
        super().__init__()
        if width % heads:
            raise ConfigError(f"the neck has {width} channels and {heads} heads; expected a multiple")
        modules = sam_modules()
        norm: Any = partial(nn.LayerNorm, eps=1e-6)
        self.used = tuple(used)
        self.patch_embeds = nn.ModuleDict({str(i): Projected(channels[i], width, STRIDES[i]) for i in self.used})
        self.level_encoding = nn.Embedding(len(self.used), width)
        self.register_buffer("pos_embed", self.level_encoding.weight.new_zeros(1, *cells, width))
        self.blocks = nn.ModuleList(
            modules.image_encoder.Block(
                width,
                heads,
                norm_layer=norm,
                use_rel_pos=True,
                window_size=0 if i in whole else window,
                input_size=cells if i in whole else (window, window),
            )
            for i in range(depth)
        )
        layer_norm = modules.common.LayerNorm2d
        self.neck = nn.Sequential(
            nn.Conv2d(width, out, 1, bias=False),
            layer_norm(out),
            nn.Conv2d(out, out, 3, padding=1, bias=False),
            layer_norm(out),
        )

    def added(self, levels: Sequence[Tensor]) -> Tensor:
        """Return the sum (B, h, w, E) of the levels that are used, with positions.

        Args:
            levels: (B, C, H, W) at strides 4, 8, 16 and 32 of an image whose sides are multiples of 64.
        """
        found: Tensor = self.pos_embed  # type: ignore[assignment]
        for number, index in enumerate(self.used):
            found = found + self.patch_embeds[str(index)](levels[index]) + self.level_encoding.weight[number]
        return found

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Return features (B, out, h, w) as SAM's image encoder has them; see `added`."""
        x = self.added(levels)
        for block in self.blocks:
            x = block(x)
        found: Tensor = self.neck(x.permute(0, 3, 1, 2))
        return found

    def loss(self, levels: Sequence[Tensor], teacher: Tensor) -> Tensor:
        """Return the mean squared error to what SAM's encoder gives (B, out, h, w): the loss of SAM2CLIP."""
        return F.mse_loss(self(levels), teacher)
