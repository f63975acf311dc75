"""The multi-scale deformable pixel decoder of Mask2Former, as FC-CLIP and MAFT+ use it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovseg.errors import ConfigError
from ovseg.ops.ms_deform_attn import ms_deform_attn, pixel_centres
from ovseg.proposals.sine_position import sine_position
from ovseg.system.device import give_back

LEVELS = ("res5", "res4", "res3")  # what the encoder sees, coarse to fine
POINTS = 4  # of every head on every level
GROUPS = 32
TOKENS = 4096  # that pass through a feed-forward network at a time


class DeformableAttention(nn.Module):
    """Every token looks at a few places of every level that it chooses itself (Deformable DETR, ICLR 2021)."""

    def __init__(self, dim: int, heads: int, levels: int = len(LEVELS), points: int = POINTS) -> None:
        """Build it looking around along ``heads`` directions, one step further with every point.

        Raises:
            ConfigError: ``dim`` is no multiple of ``heads``.
        """
        super().__init__()
        if dim % heads:
            raise ConfigError(f"deformable attention has dim {dim} and {heads} heads; expected a multiple of the heads")
        self.split = (heads, levels, points)
        self.offsets = nn.Linear(dim, heads * levels * points * 2)
        self.weights = nn.Linear(dim, heads * levels * points)
        self.value, self.output = nn.Linear(dim, dim), nn.Linear(dim, dim)
        angles = torch.arange(heads) * (2 * math.pi / heads)
        directions = torch.stack([angles.cos(), angles.sin()], -1)
        directions = directions / directions.abs().amax(-1, keepdim=True)
        steps = directions[:, None, None] * torch.arange(1, points + 1)[:, None]
        with torch.no_grad():
            self.offsets.bias.copy_(steps.expand(-1, levels, -1, -1).flatten())
        for parameter in (self.offsets.weight, *self.weights.parameters(), self.value.bias, self.output.bias):
            nn.init.zeros_(parameter)
        for layer in (self.value, self.output):
            nn.init.xavier_uniform_(layer.weight)

    def forward(self, query: Tensor, reference: Tensor, value: Tensor, shapes: Sequence[tuple[int, int]]) -> Tensor:
        """Attend.

        Args:
            query: (B, M, C), with positions.
            reference: Places (M, 2) as (x, y) in 0..1 around which to look, the same on all levels.
            value: (B, N, C), the levels one behind the other.
            shapes: Rows and columns of each level.

        Returns:
            (B, M, C).
        """
        heads, levels, points = self.split
        # Whole rows at a time: over axes as short as these, additions and softmax take ten times as long.
        sizes = torch.tensor([(w, h) for h, w in shapes], device=query.device, dtype=reference.dtype)
        sizes = sizes[:, None].expand(-1, points, -1).reshape(-1).repeat(heads)
        offsets = self.offsets(query).to(reference.dtype)
        places = torch.addcdiv(reference.repeat(1, heads * levels * points), offsets, sizes)
        logits = self.weights(query).unflatten(-1, (heads, levels * points))
        weights = (logits - logits.detach().amax(-1, keepdim=True)).exp()
        weights = weights / weights.sum(-1, keepdim=True)
        values = self.value(value).unflatten(-1, (heads, -1))
        places, weights = places.unflatten(-1, (heads, levels, points, 2)), weights.unflatten(-1, (levels, points))
        found: Tensor = self.output(ms_deform_attn(values, shapes, places, weights))
        return found


class EncoderLayer(nn.Module):
    """Deformable attention and a feed-forward network, each with a residual and then a norm."""

    def __init__(self, dim: int, heads: int, ffn: int) -> None:
        """Build it; ``ffn`` is the width of the feed-forward network."""
        super().__init__()
        self.attention = DeformableAttention(dim, heads)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.linear1, self.linear2 = nn.Linear(dim, ffn), nn.Linear(ffn, dim)
        nn.init.xavier_uniform_(self.linear1.weight)
        nn.init.xavier_uniform_(self.linear2.weight)

    def forward(self, tokens: Tensor, position: Tensor, reference: Tensor, shapes: Sequence[tuple[int, int]]) -> Tensor:
        """Update tokens (B, N, C) with positions (N, C) and places (N, 2)."""
        tokens = self.norm1(self.attention(tokens + position, reference, tokens, shapes).add_(tokens))
        parts = tokens.split(TOKENS, 1)  # of all of them at once the network is four times as wide as what is around it
        return torch.cat([self.norm2(self.linear2(self.linear1(x).relu_()).add_(x)) for x in parts], 1)


class PixelDecoder(nn.Module):
    """Turns the levels of a backbone into mask features at 1/4 and three refined levels.

    Cheng et al., "Masked-attention Mask Transformer for Universal Image Segmentation", CVPR 2022
    (github.com/facebookresearch/Mask2Former).
    """

    def __init__(
        self,
        channels: Mapping[str, int],
        *,
        dim: int = 256,
        mask_dim: int = 0,
        heads: int = 8,
        encoder_ffn: int = 1024,
        encoder_layers: int = 6,
    ) -> None:
        """Build it.

        Args:
            channels: Of the levels ``res2`` to ``res5`` that it is given.
            dim: Width of everything in it.
            mask_dim: Channels of the mask features; 0 is ``dim``.
            heads: Of every attention.
            encoder_ffn: Width of the feed-forward networks.
            encoder_layers: Of the encoder.

        Raises:
            ConfigError: ``dim`` is no multiple of 32.
        """
        super().__init__()
        if dim % GROUPS:
            raise ConfigError(f"the pixel decoder has dim {dim}; expected a multiple of {GROUPS}")
        self.dim = dim
        self.input_proj = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels[name], dim, 1), nn.GroupNorm(GROUPS, dim)) for name in LEVELS
        )
        self.level_embed = nn.Parameter(torch.randn(len(LEVELS), dim))
        self.layers = nn.ModuleList(EncoderLayer(dim, heads, encoder_ffn) for _ in range(encoder_layers))
        self.lateral = nn.Sequential(nn.Conv2d(channels["res2"], dim, 1, bias=False), nn.GroupNorm(GROUPS, dim))
        self.smooth = nn.Sequential(
            nn.Conv2d(dim, dim, 3, padding=1, bias=False), nn.GroupNorm(GROUPS, dim), nn.ReLU(True)
        )
        self.mask_features = nn.Conv2d(dim, mask_dim or dim, 1)
        for name, parameter in self.named_parameters():
            if name.startswith("input_proj") and parameter.ndim == 4:
                nn.init.xavier_uniform_(parameter)
            elif parameter.ndim == 4:
                nn.init.kaiming_uniform_(parameter, a=1)
            elif name in ("mask_features.bias", *(f"input_proj.{i}.0.bias" for i in range(len(LEVELS)))):
                nn.init.zeros_(parameter)

    def forward(self, features: Mapping[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Decode the levels of a backbone; single precision stays single under autocast.

        Args:
            features: ``res2`` to ``res5``, each (B, C, h, w), at 1/4 to 1/32.

        Returns:
            Mask features (B, mask_dim, H/4, W/4), and the levels (B, dim, h, w) at 1/32, 1/16 and 1/8.
        """
        dtype = self.level_embed.dtype
        with torch.autocast(features["res2"].device.type, enabled=False):
            return self._decode({name: feature.to(dtype) for name, feature in features.items()})

    def _decode(self, features: Mapping[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
        # Not channels last: there PyTorch's group norm loses two digits on the CPU.
        features = {name: x.contiguous() for name, x in features.items()}
        maps = [project(features[name]) for project, name in zip(self.input_proj, LEVELS, strict=True)]
        shapes, device = [(x.shape[2], x.shape[3]) for x in maps], maps[0].device
        position = torch.cat(
            [
                sine_position(shape, self.dim, device).flatten(1).mT.to(embed.dtype) + embed
                for shape, embed in zip(shapes, self.level_embed, strict=True)
            ]
        )
        reference = pixel_centres(shapes, device)
        tokens = torch.cat([x.flatten(2).mT for x in maps], dim=1)
        del maps
        for layer in self.layers:
            tokens = layer(tokens, position, reference, shapes)
        parts = tokens.split([h * w for h, w in shapes], dim=1)
        levels = [part.unflatten(1, shape).permute(0, 3, 1, 2) for part, shape in zip(parts, shapes, strict=True)]
        # What lies at 1/4 is large: of each step only the result is kept.
        give_back(tokens.device)
        lateral = self.lateral(features["res2"])
        size = (lateral.shape[2], lateral.shape[3])
        x = F.interpolate(levels[-1].contiguous(), size, mode="bilinear", align_corners=False).add_(lateral)
        del lateral
        for module in self.smooth:
            x = module(x)
        return self.mask_features(x), levels
