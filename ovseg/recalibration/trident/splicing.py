"""Windows whose features, not their scores, become those of the whole image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg.clip.features import Recalibrator
from ovseg.clip.tower import Tower
from ovseg.errors import ConfigError
from ovseg.guides import Guide, unit_patches
from ovseg.guides.mixing import guided_block, masked_softmax
from ovseg.ops.windows import WINDOWS_PER_PASS, WindowPlan, plan_windows


class Splicing(Recalibrator, Protocol):
    """What splicing asks of the method: its options."""

    windows: tuple[int, ...]
    guide: Guide
    beta: float
    gamma: float
    residual: bool
    feed_forward: bool


def check_windows(windows: tuple[int, ...]) -> tuple[int, ...]:
    """Return the option if it is empty or a side and a step in pixels.

    Raises:
        ConfigError: It is neither, or the windows leave gaps.
    """
    if windows and (len(windows) != 2 or not 0 < windows[1] <= windows[0]):
        raise ConfigError(
            f"windows is {list(windows)}; expected none, or a side and a step that is no longer: [336, 224]"
        )
    return tuple(windows)


def fit(images: Tensor, patch: int, side: int) -> Tensor:
    """Resize images (B, 3, H, W) so that patches fit them and no side is shorter than a window, bilinear.

    The longer side is rounded up to patches, the other follows and is rounded up, too. (The original leaves images
    alone whose sides are multiples of the patch, and fails where one is shorter than a window.)
    """
    height, width = images.shape[2:]
    if height % patch or width % patch:
        scale = -(-max(height, width) // patch) * patch / max(height, width)
        height, width = (-(-int(length * scale) // patch) * patch for length in (height, width))
    size = (max(height, side), max(width, side))
    if size == tuple(images.shape[2:]):
        return images
    return F.interpolate(images.float(), size, mode="bilinear", align_corners=False).to(images.dtype)


def plan(size: tuple[int, ...], patch: int, side: int, step: int) -> WindowPlan:
    """Lay windows over an image of a size (H, W); a side of 0 is one window, as far as whole patches go.

    Raises:
        ConfigError: Side or step is no multiple of the patch.
    """
    if side % patch or step % patch:
        raise ConfigError(f"windows is {[side, step]}; expected multiples of the patch of this CLIP, {patch}")
    height, width = (length // patch * patch for length in size)
    return plan_windows((height, width), patch, side, step)


def splice(tokens: Tensor, own: tuple[int, int], places: WindowPlan, patch: int) -> Tensor:
    """Lay what windows show into one map, its mean where they overlap.

    Args:
        tokens: Of the windows of one image (W, h' * w', C).
        own: Rows and columns (h', w') of each.
        places: Where they lie.
        patch: Side of a patch of CLIP in pixels.

    Returns:
        (C, r h, r w): r cells a side of each patch of the whole image, as many as come nearest to those of the windows.
    """
    cells = places.rows.cells
    ratio = max(round(own[0] / cells), 1)
    maps = tokens.mT.unflatten(-1, own)
    fitting = (ratio * places.rows.cells, ratio * places.columns.cells)
    if fitting != own:
        maps = F.interpolate(maps, fitting, mode="bilinear", align_corners=False)
    grid = [ratio * axis.length // patch for axis in (places.rows, places.columns)]
    canvas, count = maps.new_zeros(maps.shape[1], *grid), maps.new_zeros(*grid)
    corners = [(top, left) for top in places.rows.starts for left in places.columns.starts]
    for one, (top, left) in zip(maps, corners, strict=True):
        rows, columns = (
            slice(ratio * start // patch, ratio * start // patch + length)
            for start, length in zip((top, left), fitting, strict=True)
        )
        canvas[:, rows, columns] += one
        count[rows, columns] += 1
    return canvas / count


def resize(canvas: Tensor, grid: tuple[int, int]) -> Tensor:
    """Resize a map (C, h, w) to a grid, bilinear."""
    if grid == tuple(canvas.shape[1:]):
        return canvas
    return F.interpolate(canvas[None], grid, mode="bilinear", align_corners=False)[0]


def mean_cosine(unit: Tensor) -> Tensor:
    """Return the mean cosine () of all pairs within each window, of unit vectors (W, M, C), over all windows."""
    return unit.mean(1).square().sum(-1).mean()


def spliced(clip: Tower, images: Tensor, method: Splicing) -> Iterator[Tensor]:
    """Yield the map (C, h, w) of each of images (B, 3, H, W): tokens that left the last block, by its attention alone.

    Args:
        clip: The tower.
        images: Normalised.
        method: Says which windows there are, and what guides them.
    """
    patch = clip.patch_size
    if method.windows:
        images = fit(images, patch, method.windows[0])
    side, step = method.windows or (0, 0)
    places = plan(tuple(images.shape[2:]), patch, side, step)
    for image in images:
        tokens, own = guided(clip, places.cut(image[None]), method)
        yield splice(tokens, own, places, patch)


def guided(clip: Tower, windows: Tensor, method: Splicing) -> tuple[Tensor, tuple[int, int]]:
    """Mix CLIP's values by the likeness of the guide's features, as in ProxyCLIP, with one mean for all windows.

    Args:
        clip: The tower.
        windows: Of one image (W, 3, h, w), normalised.
        method: Says what guides them.

    Returns:
        Tokens (W, h' * w', C) on the grid of the guide, and this grid.
    """
    parts = []
    for some in windows.split(WINDOWS_PER_PASS):
        tokens, context = clip.entering(some, method)
        parts.append((tokens, context, method.guide(context)))
    features = torch.cat([own for _, _, own in parts])
    grid = (features.shape[2], features.shape[3])
    bound = method.beta * mean_cosine(unit_patches(features))
    found = []
    for tokens, context, own in parts:
        unit, block = unit_patches(own), context.blocks[-1]
        cosines = unit @ unit.mT
        weights = masked_softmax(method.gamma * cosines, cosines >= bound)
        patches, values = (clip.split(one)[1] for one in (tokens, block.qkv(tokens)[2]))
        whole = (method.residual, method.feed_forward)
        found.append(guided_block(patches, values, block, weights, context.grid, grid, *whole))
    return torch.cat(found), grid
