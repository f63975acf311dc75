"""Compose Scenes in batches, on any device: objects with rotation, scale, light and occlusion, exact masks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ovseg.data.scenes.bank import TEXTURES_PER_CLASS, Bank
from ovseg.data.scenes.textures import STUFF
from ovseg.system.device import CPU

MAX_OBJECTS = 6
# Side of an object as a fraction of the image, by the number of objects in it.
SIZE_RANGE = {1: (0.3, 0.95), 2: (0.28, 0.6), 3: (0.25, 0.52), 4: (0.22, 0.45), 5: (0.18, 0.36), 6: (0.18, 0.34)}


@dataclass
class SceneBatch:
    """B composed scenes of side S with up to N objects.

    Attributes:
        images: (B, 3, S, S) float32 in 0..1.
        instances: (B, S, S) int64; 0 is background, i is the object in slot i - 1.
        stuff: (B, S, S) int64 stuff class of the background behind everything, -1 where it is an unlabelled photograph.
        concepts: (B, N) int64 concept of each slot, -1 where empty.
        visible: (B, N) float32, the share of each object that is neither covered nor outside.
    """

    images: Tensor
    instances: Tensor
    stuff: Tensor
    concepts: Tensor
    visible: Tensor


class Composer:
    """Draws batches of scenes from a bank; equal generators give equal scenes."""

    def __init__(self, bank: Bank, size: int, device: torch.device | str = CPU) -> None:
        """Prepare image pyramids of the cut-outs for scenes of side `size` pixels on `device`."""
        self.bank, self.size, self.device = bank, size, torch.device(device)
        level = bank.sprites.to(self.device)
        self.pyramid = []
        while level.shape[-1] >= 16:
            if level.shape[-1] <= max(2 * size, 32):
                self.pyramid.append(level)
            level = _halve(level)
        textures, photos = bank.textures, bank.photos
        if size <= 128:
            textures, photos = (F.avg_pool2d(x.float(), 2).round().byte() for x in (textures, photos))
        self.textures, self.photos = textures.to(self.device), photos.to(self.device)
        self.sprites_of: dict[int, list[int]] = {}
        for index, concept in enumerate(bank.sprite_concept.tolist()):
            self.sprites_of.setdefault(concept, []).append(index)

    def __call__(self, concepts: Tensor, generator: torch.Generator) -> SceneBatch:
        """Compose one scene per row.

        Args:
            concepts: (B, N) int64 on the CPU, indices of the bank's concepts; -1 leaves the slot empty.
                Later slots are drawn over earlier ones.
            generator: CPU generator; every random choice comes from it.
        """
        batch, slots = concepts.shape
        canvas, stuff = self._backgrounds(batch, generator)
        instances = torch.zeros_like(stuff)
        whole = torch.zeros(batch, slots)
        placements = self._placements(concepts, generator)
        for slot in range(slots):
            rows = torch.nonzero(concepts[:, slot] >= 0).flatten()
            choices = torch.rand(len(rows), generator=generator).tolist()
            if not len(rows):
                continue
            owned = [self.sprites_of[int(c)] for c in concepts[rows, slot]]
            sprite = torch.tensor([own[int(u * len(own))] for own, u in zip(owned, choices, strict=True)])
            rgba, area = self._draw(sprite, placements[rows, slot], generator)
            where = rows.to(self.device)
            canvas[where], mask = _paste(canvas[where], rgba)
            instances[where] = torch.where(mask, slot + 1, instances[where])
            whole[rows, slot] = area.cpu()
        canvas = self._camera(canvas, generator)
        ids = torch.arange(1, slots + 1, device=self.device)
        seen = (instances.flatten(1)[:, None] == ids[None, :, None]).sum(-1).cpu()
        return SceneBatch(canvas, instances, stuff, concepts, (seen / whole.clamp(min=1)).clamp(max=1))

    def _rand(self, *shape: int, generator: torch.Generator, low: float = 0.0, high: float = 1.0) -> Tensor:
        return torch.rand(*shape, generator=generator) * (high - low) + low

    def _placements(self, concepts: Tensor, generator: torch.Generator) -> Tensor:
        """(B, N, 6): centre x, y in -1..1, size fraction, angle, aspect, flip."""
        batch, slots = concepts.shape
        count = (concepts >= 0).sum(1).clamp(min=1)
        low, high = (torch.tensor([SIZE_RANGE[min(int(c), MAX_OBJECTS)][k] for c in count]) for k in (0, 1))
        size = low[:, None] + (high - low)[:, None] * torch.rand(batch, slots, generator=generator)
        side = torch.where(count > 4, 3, torch.where(count > 1, 2, 1))[:, None]
        cells = torch.rand(batch, 9, generator=generator).argsort(1)
        cells = torch.stack(
            [row[row < int(s) ** 2][:slots].repeat(slots)[:slots] for row, s in zip(cells, side, strict=True)]
        )
        jitter = self._rand(batch, slots, 2, generator=generator, low=-1.0)
        reach = torch.where(side > 1, 0.9 / side, (1.05 - 0.8 * size).clamp(min=0.1))
        cx = ((cells % side) + 0.5) / side * 2 - 1 + jitter[..., 0] * reach
        cy = ((cells // side) + 0.5) / side * 2 - 1 + jitter[..., 1] * reach
        angle = self._rand(batch, slots, generator=generator, low=-1.0) * math.radians(28)
        aspect = self._rand(batch, slots, generator=generator, low=0.85, high=1.18)
        flip = torch.where(torch.rand(batch, slots, generator=generator) < 0.5, -1.0, 1.0)
        return torch.stack([cx, cy, size, angle, aspect, flip], -1)

    def _draw(self, sprite: Tensor, placement: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Warp (n,) cut-outs into the frame: (n, 4, S, S) straight RGBA in 0..1, and their unclipped areas."""
        cx, cy, size, angle, aspect, flip = placement.unbind(-1)
        cos, sin = angle.cos(), angle.sin()
        theta = torch.zeros(len(sprite), 2, 3)
        theta[:, 0, 0], theta[:, 0, 1] = flip * cos / (size * aspect), flip * sin / (size * aspect)
        theta[:, 1, 0], theta[:, 1, 1] = -sin * aspect / size, cos * aspect / size
        theta[:, :, 2] = -(theta[:, :, :2] @ torch.stack([cx, cy], -1)[..., None])[..., 0]
        rgba = torch.empty(len(sprite), 4, self.size, self.size, device=self.device)
        area = torch.empty(len(sprite), device=self.device)
        finest = self.pyramid[0].shape[-1]
        level = torch.log2(finest / (size * self.size)).floor().clamp(0, len(self.pyramid) - 1).long()
        for index in level.unique().tolist():
            rows = torch.nonzero(level == index).flatten()
            source = self.pyramid[index][sprite[rows].to(self.device)].float() / 255
            grid = F.affine_grid(theta[rows].to(self.device), [len(rows), 4, self.size, self.size], align_corners=False)
            opaque = torch.cat([source[:, :3] * source[:, 3:], source[:, 3:]], 1)
            warped = F.grid_sample(opaque, grid, align_corners=False)
            where = rows.to(self.device)
            rgba[where] = torch.cat([warped[:, :3] / warped[:, 3:].clamp(min=1e-4), warped[:, 3:]], 1)
            share = (source[:, 3] > 0.5).float().mean((1, 2))
            area[where] = share * (size[rows].to(self.device) * self.size) ** 2
        gain = self._rand(len(sprite), 1, 1, 1, generator=generator, low=0.72, high=1.22)
        cast = self._rand(len(sprite), 3, 1, 1, generator=generator, low=0.92, high=1.08)
        rgba[:, :3] = (rgba[:, :3] * (gain * cast).to(self.device)).clamp(0, 1)
        return rgba, area

    def _backgrounds(self, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """One texture, two textures with a border between them, or a photograph: (B, 3, S, S) and its stuff map."""
        kind = torch.rand(batch, generator=generator)
        first = torch.randint(len(STUFF), (batch,), generator=generator)
        step = torch.randint(1, len(STUFF), (batch,), generator=generator)
        second = torch.where(kind < 0.45, (first + step) % len(STUFF), first)
        variant = torch.randint(TEXTURES_PER_CLASS, (2, batch), generator=generator)
        is_photo = kind > 0.85
        windows = [self._windows(batch, generator) for _ in range(2)]
        photo = torch.randint(len(self.photos), (batch,), generator=generator)
        windows.append(self._windows(batch, generator))
        canvas = torch.empty(batch, 3, self.size, self.size, device=self.device)
        lower = torch.empty_like(canvas)
        for place, source, index, window, rows in (
            (canvas, self.textures, first * TEXTURES_PER_CLASS + variant[0], windows[0], ~is_photo),
            (lower, self.textures, second * TEXTURES_PER_CLASS + variant[1], windows[1], kind < 0.45),
            (canvas, self.photos, photo, windows[2], is_photo),
        ):
            if rows.any():
                place[rows.to(self.device)] = self._crop(source, index[rows], *(part[rows] for part in window))
        y = torch.linspace(-1, 1, self.size)[None, :, None]
        x = torch.linspace(-1, 1, self.size)[None, None]
        height, slope, wave, phase = (self._rand(batch, 1, 1, generator=generator, low=-1.0) for _ in range(4))
        below = (y > 0.5 * height + 0.3 * slope * x + 0.06 * wave * torch.sin(6 * x + 3 * phase)).to(self.device)
        two = (kind < 0.45).to(self.device)[:, None, None] & below
        canvas = torch.where(two[:, None], lower, canvas)
        stuff = torch.where(two, second.to(self.device)[:, None, None], first.to(self.device)[:, None, None])
        return canvas, torch.where(is_photo.to(self.device)[:, None, None], -1, stuff)

    def _windows(self, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Choose random square windows, mirrored half of the time, (B, 2, 3), and the light in them (B, 1, 1, 1)."""
        zoom = self._rand(batch, 1, generator=generator, low=0.35, high=1.0)
        shift = self._rand(batch, 2, generator=generator, low=-1.0) * (1 - zoom)
        flip = torch.where(torch.rand(batch, 1, generator=generator) < 0.5, -1.0, 1.0)
        theta = torch.zeros(batch, 2, 3)
        theta[:, 0, :1], theta[:, 1, 1:2], theta[:, :, 2] = zoom * flip, zoom, shift
        return theta, self._rand(batch, 1, 1, 1, generator=generator, low=0.65, high=1.2)

    def _crop(self, source: Tensor, index: Tensor, theta: Tensor, light: Tensor) -> Tensor:
        """Cut windows (n, 2, 3) out of the pictures of some indices (n,): (n, 3, S, S) in 0..1."""
        grid = F.affine_grid(theta.to(self.device), [len(index), 3, self.size, self.size], align_corners=False)
        pictures = source[index.to(self.device)].float() / 255
        crop = F.grid_sample(pictures, grid, align_corners=False, padding_mode="border")
        return (crop * light.to(self.device)).clamp(0, 1)

    def _camera(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Exposure, contrast, colour cast and noise of the whole picture."""
        batch = len(images)
        gain = self._rand(batch, 1, 1, 1, generator=generator, low=0.8, high=1.2)
        cast = self._rand(batch, 3, 1, 1, generator=generator, low=0.94, high=1.06)
        offset = self._rand(batch, 1, 1, 1, generator=generator, low=-0.06, high=0.06)
        sigma = self._rand(batch, 1, 1, 1, generator=generator, high=0.02)
        noise = torch.randn(batch, 1, self.size, self.size, generator=generator) * sigma
        gain, cast, offset, noise = (x.to(self.device) for x in (gain, cast, offset, noise))
        return ((images - 0.5) * gain * cast + 0.5 + offset + noise).clamp(0, 1)


def _halve(sprites: Tensor) -> Tensor:
    """Average 2x2 pixels of straight RGBA uint8 sprites, weighting colours by alpha."""
    parts = []
    for chunk in sprites.split(256):
        alpha = chunk[:, 3:].float()
        pooled = F.avg_pool2d(torch.cat([chunk[:, :3].float() * alpha, alpha], 1), 2)
        parts.append(
            torch.cat([pooled[:, :3] / pooled[:, 3:].clamp(min=1e-3), pooled[:, 3:]], 1).clamp(0, 255).round().byte()
        )
    return torch.cat(parts)


def _paste(canvas: Tensor, rgba: Tensor) -> tuple[Tensor, Tensor]:
    """Draw (n, 4, S, S) over (n, 3, S, S) with a soft shadow; also return the (n, S, S) mask of the object."""
    alpha = rgba[:, 3:]
    radius = max(canvas.shape[-1] // 32, 1)
    right, down = radius // 2, radius
    shadow = F.avg_pool2d(alpha, 2 * radius + 1, 1, radius)
    shadow = F.pad(shadow, (right, -right, down, -down))
    shaded = canvas * (1 - 0.4 * shadow)
    return shaded * (1 - alpha) + rgba[:, :3] * alpha, alpha[:, 0] > 0.5


def draw_concepts(pool: Tensor, counts: Tensor, slots: int, generator: torch.Generator) -> Tensor:
    """Choose concepts for a batch so that none occurs twice in it as long as the pool lasts.

    Args:
        pool: (P,) int64 concept indices to choose from.
        counts: (B,) int64 objects per scene, at most `slots`.
        slots: Width of the result.
        generator: CPU generator.

    Returns:
        (B, slots) int64, -1 where empty.
    """
    needed = int(counts.sum())
    order = torch.cat(
        [pool[torch.randperm(len(pool), generator=generator)] for _ in range(-(-needed // len(pool)) or 1)]
    )
    concepts = torch.full((len(counts), slots), -1)
    concepts[torch.arange(slots)[None] < counts[:, None]] = order[:needed]
    return concepts
