"""CAT-Seg in plain PyTorch, as its paper and code describe it, on weights by the names of the original.

It is what ours is compared and timed with: every class is a copy of the guidance, lists are filled up with rows, and a
map of all classes is held at every size. It shares no code with the product.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

HEAD, CLIP = "sem_seg_head.predictor.transformer.", "sem_seg_head.predictor.clip_model.visual."


@dataclass(frozen=True)
class Sizes:
    """What weights do not tell.

    Attributes:
        heads: Of CLIP's attention.
        patch: Side of its patches in pixels.
        resolution: Side of the square that it sees in pixels.
        taps: Blocks behind which its tokens lead the upsampling.
        grid: Side of its grid of patches.
        window: Side of a window of the Swin blocks.
        cost_heads: Heads of the attention of the aggregator.
        fill: Lists are filled up, or cut, to so many classes; 0 for neither.
    """

    heads: int = 12
    patch: int = 16
    resolution: int = 384
    taps: tuple[int, int] = (3, 7)
    grid: int = 24
    window: int = 12
    cost_heads: int = 4
    fill: int = 256


class PlainCatSeg:
    """The network; ``weights`` are those of a checkpoint of the original."""

    def __init__(self, weights: Mapping[str, Tensor], sizes: Sizes) -> None:
        self.weights, self.sizes = weights, sizes

    def w(self, name: str) -> Tensor:
        """Return a weight."""
        return self.weights[name]

    def linear(self, x: Tensor, name: str) -> Tensor:
        """Run a linear layer."""
        return F.linear(x, self.w(f"{name}.weight"), self.w(f"{name}.bias"))

    def norm(self, x: Tensor, name: str) -> Tensor:
        """Run a layer norm."""
        return F.layer_norm(x, x.shape[-1:], self.w(f"{name}.weight"), self.w(f"{name}.bias"))

    def conv(self, x: Tensor, name: str, padding: int = 1) -> Tensor:
        """Run a convolution."""
        return F.conv2d(x, self.w(f"{name}.weight"), self.weights.get(f"{name}.bias"), padding=padding)

    def up(self, x: Tensor, name: str) -> Tensor:
        """Run a transposed convolution whose kernel is as large as its stride."""
        weight = self.w(f"{name}.weight")
        return F.conv_transpose2d(x, weight, self.w(f"{name}.bias"), stride=weight.shape[2])

    def dense(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return dense features (B, D, h, w) of normalised images, and the tokens of the taps (B, C, h, w)."""
        grid = self.sizes.resolution // self.sizes.patch
        x = F.conv2d(images, self.w(f"{CLIP}conv1.weight"), stride=self.sizes.patch).flatten(2).mT
        x = torch.cat([self.w(f"{CLIP}class_embedding").expand(len(x), 1, -1), x], 1)
        table = self.w(f"{CLIP}positional_embedding")
        if len(table) != x.shape[1]:
            side = round((len(table) - 1) ** 0.5)
            own = table[1:].mT.reshape(1, -1, side, side)
            own = F.interpolate(own, (grid, grid), mode="bicubic", align_corners=False)
            table = torch.cat([table[:1], own.flatten(2)[0].mT])
        x = self.norm(x + table, f"{CLIP}ln_pre")
        blocks = 1 + max(
            int(name.split("resblocks.")[1].split(".")[0]) for name in self.weights if f"{CLIP}trans" in name
        )
        taps = []
        for index in range(blocks):
            x = self.clip_block(x, f"{CLIP}transformer.resblocks.{index}.", dense=index == blocks - 1)
            if index in self.sizes.taps:
                taps.append(x[:, 1:].mT.unflatten(2, (grid, grid)))
        features = self.norm(x, f"{CLIP}ln_post") @ self.w(f"{CLIP}proj")
        return features[:, 1:].mT.unflatten(2, (grid, grid)), taps

    def clip_block(self, x: Tensor, name: str, dense: bool) -> Tensor:
        """Run a block of CLIP on tokens (B, N, C)."""
        y, biases = self.norm(x, f"{name}ln_1"), self.w(f"{name}attn.in_proj_bias").chunk(3)
        q, k, v = (
            F.linear(y, self.w(f"{name}attn.{part}_proj_weight"), bias)
            .unflatten(-1, (self.sizes.heads, -1))
            .transpose(1, 2)
            for part, bias in zip("qkv", biases, strict=True)
        )
        found = v if dense else F.scaled_dot_product_attention(q, k, v)
        x = (x[:, :1] if dense else x) + self.linear(found.transpose(1, 2).flatten(2), f"{name}attn.out_proj")
        hidden = self.linear(self.norm(x, f"{name}ln_2"), f"{name}mlp.c_fc")
        return x + self.linear(hidden * torch.sigmoid(1.702 * hidden), f"{name}mlp.c_proj")

    def logits(self, images: Tensor, texts: Tensor) -> Tensor:
        """Return logits (B, T, 4 h, 4 w) of normalised images (B, 3, r, r) and unit texts (T, D)."""
        features, taps = self.dense(images)
        levels = [self.up(tap, f"upsample{i + 1}") for i, tap in enumerate(taps)]
        cost = torch.einsum("bdhw,td->bthw", F.normalize(features, dim=1), texts)
        fill, (count, classes) = self.sizes.fill, cost.shape[:2]
        if not 0 < fill < classes:
            return self.aggregate(cost, features, levels, texts.expand(count, -1, -1))
        kept = cost.flatten(2).amax(2).topk(fill, dim=1).indices
        some = torch.stack([own[rows] for own, rows in zip(cost, kept, strict=True)])
        found = self.aggregate(some, features, levels, texts[kept])
        whole = torch.full((count, classes, *found.shape[2:]), -100.0)
        for own, rows, part in zip(whole, kept, found, strict=True):
            own[rows] = part
        return whole

    def aggregate(self, cost: Tensor, features: Tensor, levels: list[Tensor], texts: Tensor) -> Tensor:
        """Return logits (B, T, 4 h, 4 w) of cost maps (B, T, h, w) and texts (B, T, D)."""
        count, classes = cost.shape[:2]
        x = self.conv(cost.flatten(0, 1)[:, None], f"{HEAD}conv1", 3).unflatten(0, (count, classes))
        guidance = F.relu(self.conv(features, f"{HEAD}guidance_projection.0"))
        words = F.relu(self.linear(texts, f"{HEAD}text_guidance_projection.0"))
        led = [F.relu(self.conv(one, f"{HEAD}decoder_guidance_projection.{i}.0")) for i, one in enumerate(levels)]
        layer = 0
        while f"{HEAD}layers.{layer}.attention.norm1.weight" in self.weights:
            x = self.swin(x, guidance, f"{HEAD}layers.{layer}.swin_block.")
            x = self.over_classes(x, words, f"{HEAD}layers.{layer}.attention.")
            layer += 1
        x = x.flatten(0, 1)
        for index, one in enumerate(led, start=1):
            name = f"{HEAD}decoder{index}."
            x = torch.cat([self.up(x, f"{name}up"), one.repeat_interleave(classes, 0)], 1)
            for part in (0, 3):
                x = self.conv(x, f"{name}conv.double_conv.{part}")
                norm = f"{name}conv.double_conv.{part + 1}."
                x = F.relu(F.group_norm(x, x.shape[1] // 16, self.w(f"{norm}weight"), self.w(f"{norm}bias")))
        return self.conv(x, f"{HEAD}head").unflatten(0, (count, classes))[:, :, 0]

    def swin(self, x: Tensor, guidance: Tensor, name: str) -> Tensor:
        """Run two Swin blocks on maps (B, T, C, h, w), each led by guidance (B, G, h, w)."""
        shape, window, grid = x.shape, self.sizes.window, self.sizes.grid
        led = self.norm(guidance.flatten(2).mT, f"{name}guidance_norm").repeat_interleave(shape[1], 0)
        x = x.flatten(0, 1).flatten(2).mT
        side = min(window, grid)
        for number, shift in ((1, 0), (2, 0 if grid <= window else side // 2)):
            own = f"{name}block_{number}."
            y = self.norm(x, f"{own}norm1")
            both = torch.cat([y, led], -1)
            parts = [
                self.linear(both, f"{own}attn.q"),
                self.linear(both, f"{own}attn.k"),
                self.linear(y, f"{own}attn.v"),
            ]
            q, k, v = (self.windows(part.unflatten(1, (grid, grid)), side, shift) for part in parts)
            found = F.scaled_dot_product_attention(q, k, v, self.mask(side, shift, len(x)))
            found = found.transpose(1, 2).flatten(2).unflatten(1, (side, side))
            cells = grid // side
            found = found.unflatten(0, (-1, cells, cells)).transpose(2, 3).reshape(len(x), grid, grid, -1)
            x = x + self.linear(found.roll((shift, shift), (1, 2)).flatten(1, 2), f"{own}attn.proj")
            x = x + self.linear(F.gelu(self.linear(self.norm(x, f"{own}norm2"), f"{own}mlp.fc1")), f"{own}mlp.fc2")
        return x.mT.reshape(shape)

    def windows(self, maps: Tensor, side: int, shift: int) -> Tensor:
        """Cut maps (M, g, g, C) into windows (M * n, heads, side ** 2, d)."""
        cells = maps.shape[1] // side
        maps = maps.roll((-shift, -shift), (1, 2)).unflatten(2, (cells, side)).unflatten(1, (cells, side))
        return (
            maps.transpose(2, 3)
            .reshape(-1, side * side, self.sizes.cost_heads, maps.shape[-1] // self.sizes.cost_heads)
            .transpose(1, 2)
        )

    def mask(self, side: int, shift: int, maps: int) -> Tensor | None:
        """Return what shifted windows add to their scores (M * n, 1, side ** 2, side ** 2)."""
        if not shift:
            return None
        bands = torch.arange(self.sizes.grid)
        bands = (bands >= self.sizes.grid - side).long() + (bands >= self.sizes.grid - shift).long()
        cells = self.sizes.grid // side
        regions = (3 * bands[:, None] + bands).unflatten(1, (cells, side)).unflatten(0, (cells, side))
        regions = regions.transpose(1, 2).reshape(-1, side * side)
        mask = torch.where(regions[:, None] == regions[:, :, None], 0.0, -100.0)
        return mask.repeat(maps, 1, 1)[:, None]

    def over_classes(self, x: Tensor, words: Tensor, name: str) -> Tensor:
        """Let the classes of maps (B, T, C, h, w) look at each other at each place, led by words (B, T, G)."""
        (count, classes), (high, wide) = x.shape[:2], x.shape[3:]
        rows = x.permute(0, 3, 4, 1, 2).flatten(0, 2)  # (B * h * w, T, C)
        led = words.repeat_interleave(high * wide, 0)
        if missing := max(self.sizes.fill - classes, 0):
            names = (f"{name}padding_tokens", f"{name}padding_guidance")
            more = (self.w(own).expand(len(rows), missing, -1) for own in names)
            rows, led = (torch.cat([one, other], 1) for one, other in zip((rows, led), more, strict=True))
        y = self.norm(rows, f"{name}norm1")
        both = torch.cat([y, led], -1)
        parts = [
            self.linear(both, f"{name}attention.q"),
            self.linear(both, f"{name}attention.k"),
            self.linear(y, f"{name}attention.v"),
        ]
        q, k, v = (part.unflatten(-1, (self.sizes.cost_heads, -1)) for part in parts)
        q, k, length = F.elu(q) + 1, F.elu(k) + 1, v.shape[1]
        sums = torch.einsum("bshd,bshv->bhdv", k, v / length)
        scale = 1 / (torch.einsum("blhd,bhd->blh", q, k.sum(1)) + 1e-6)
        rows = rows + (torch.einsum("blhd,bhdv,blh->blhv", q, sums, scale) * length).flatten(2)
        hidden = F.relu(self.linear(self.norm(rows, f"{name}norm2"), f"{name}MLP.0"))
        rows = (rows + self.linear(hidden, f"{name}MLP.2"))[:, :classes]
        return x + rows.unflatten(0, (count, high, wide)).permute(0, 3, 4, 1, 2)

    def sliding(
        self, image: Tensor, texts: Tensor, size: tuple[int, int], square: int, window: int, stride: int
    ) -> Tensor:
        """Return probabilities (T, H, W) of a normalised image (3, h, w) by windows and the whole of it."""

        def resize(maps: Tensor, *to: int) -> Tensor:
            return F.interpolate(maps, to, mode="bilinear", align_corners=False)

        whole = resize(image[None], square, square)
        views = F.unfold(whole, window, stride=stride).mT.reshape(-1, 3, window, window)
        views = torch.cat([views, resize(image[None], window, window)])
        maps = resize(self.logits(resize(views, *[self.sizes.resolution] * 2), texts), window, window).sigmoid()
        flat = maps[:-1].flatten(1).mT[None]
        folded = F.fold(flat, square, window, stride=stride)
        counts = F.fold(torch.ones_like(flat[:, : window**2]), square, window, stride=stride)
        both = (folded / counts + resize(maps[-1:], square, square)) / 2
        return resize(both, *size)[0]
