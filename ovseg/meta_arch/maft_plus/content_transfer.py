"""Content-dependent transfer: texts look at the image that they are about to classify."""

from __future__ import annotations

from torch import Tensor, nn

from ovseg.proposals.attention import Attention
from ovseg.proposals.sine_position import sine_position


class ContentTransfer(nn.Module):
    """Moves every text row by what it attends to in the image (MAFT+, Jiao et al., ECCV 2024).

    Source: github.com/jiaosiyu1999/MAFT-Plus. The rows are not of unit length afterwards. Rows do not see each other.
    """

    def __init__(self, dim: int, *, transfer_heads: int = 8, panoptic_transfer: bool = False) -> None:
        """Build it.

        Args:
            dim: Length of texts and image features; a multiple of 4 and of ``transfer_heads``.
            transfer_heads: Heads of the attention.
            panoptic_transfer: Whether the norm is applied to the change alone, which starts at zero, as in the panoptic
                models; in the semantic ones it is applied to the sum.
        """
        super().__init__()
        self.panoptic = panoptic_transfer
        self.attention = Attention(dim, transfer_heads)
        self.linear = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)
        if panoptic_transfer:
            nn.init.zeros_(self.linear.weight)
            nn.init.zeros_(self.linear.bias)

    def forward(self, features: Tensor, texts: Tensor) -> Tensor:
        """Adapt texts to images.

        Args:
            features: Dense image features (B, C, h, w) in the space of the texts.
            texts: Rows (T, C).

        Returns:
            (B, T, C).
        """
        position = sine_position((features.shape[2], features.shape[3]), features.shape[1], features.device)
        value = features.flatten(2).mT
        key = value + position.flatten(1).mT.to(value.dtype)
        rows = texts.to(value.dtype).expand(len(features), -1, -1)
        change = self.linear(self.attention(rows, key, value))
        return rows + self.norm(change) if self.panoptic else self.norm(rows + change)
