"""The small network that makes finer maps of cosines while PixelCLIP is trained; nothing of it is kept."""

from __future__ import annotations

from torch import Tensor, nn


class DoubleConv(nn.Module):
    """Two convolutions (3 x 3), each with a group norm and a ReLU."""

    def __init__(self, channels: int) -> None:
        """Build it with random weights."""
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [nn.Conv2d(channels, channels, 3, padding=1, bias=False)]
            layers += [nn.GroupNorm(channels // 16, channels), nn.ReLU(inplace=True)]
        self.double_conv = nn.Sequential(*layers)

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps of the same shape (B, C, h, w)."""
        found: Tensor = self.double_conv(maps)
        return found


class MapHead(nn.Module):
    """Makes logits of every map of cosines by itself, four times as fine; the names are those of the original."""

    def __init__(self) -> None:
        """Build it with random weights."""
        super().__init__()
        self.conv0 = nn.Conv2d(1, 64, 3, padding=1)
        self.up1, self.conv1 = nn.ConvTranspose2d(64, 64, 2, stride=2), DoubleConv(64)
        self.up2, self.conv2 = nn.ConvTranspose2d(64, 32, 2, stride=2), DoubleConv(32)
        self.proj = nn.Conv2d(32, 1, 3, padding=1)

    def forward(self, cosines: Tensor) -> Tensor:
        """Return logits (B, K, 4 h, 4 w) of cosines (B, K, h, w)."""
        maps = self.conv0(cosines.flatten(0, 1)[:, None])
        maps = self.conv2(self.up2(self.conv1(self.up1(maps))))
        found: Tensor = self.proj(maps)[:, 0].unflatten(0, cosines.shape[:2])
        return found
