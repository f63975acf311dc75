"""Boxes as regions of interest: which patches they cover, how they are spread over an image, how captions choose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg.errors import ConfigError, InputError


def check_boxes(boxes: Tensor) -> Tensor:
    """Return boxes (R, 4) as float64 on the CPU, where all geometry of boxes is done.

    Raises:
        InputError: They have another shape, there is none, or a right or lower edge lies before its opposite.
    """
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not len(boxes):
        raise InputError(f"got boxes of shape {tuple(boxes.shape)}; expected (R, 4) x0, y0, x1, y1 with at least one")
    exact = boxes.detach().cpu().double()
    wrong = ~(exact.isfinite().all(1) & (exact[:, :2] <= exact[:, 2:]).all(1))
    if wrong.any():
        first = int(wrong.nonzero()[0])
        raise InputError(f"box {first} is {boxes[first].tolist()}; expected x0 <= x1 and y0 <= y1 in pixels")
    return exact


def check_scales(scales: Sequence[float]) -> tuple[float, ...]:
    """Return the sides of boxes as shares of those of the image.

    Raises:
        ConfigError: There is no scale, or one is not in 0..1.
    """
    if not scales or not all(0 < scale <= 1 for scale in scales):
        raise ConfigError(f"scales are {list(scales)}; expected at least one share of the image, each above 0, up to 1")
    return tuple(scales)


def grid_boxes(size: tuple[int, int], scales: tuple[float, ...], overlap: float = 0.5) -> Tensor:
    """Spread boxes of the image's own shape evenly over it.

    Args:
        size: Height and width of the image in pixels.
        scales: Sides of the boxes as shares of those of the image, each in 0..1; 1.0 is the image itself.
        overlap: Least share of a box that its neighbour covers too.

    Returns:
        Boxes (R, 4) float64, ``x0, y0, x1, y1`` in pixels; those of each scale cover the image.

    Raises:
        ConfigError: There is no scale, or one is not in 0..1.
    """
    check_scales(scales)
    height, width = size
    found = []
    for scale in scales:
        count = int(-(-(1 - scale) // (scale * (1 - overlap)))) + 1
        starts = torch.linspace(0, 1 - scale, count, dtype=torch.float64)
        corners = torch.cartesian_prod(starts, starts).view(-1, 2).flip(1)  # x, y; row by row
        found.append(torch.cat([corners, corners + scale], dim=1))
    return torch.cat(found) * torch.tensor([width, height, width, height], dtype=torch.float64)


def rescale(boxes: Tensor, size: tuple[int, int], network: tuple[int, int]) -> Tensor:
    """Bring boxes (R, 4) from an image of ``size`` (H, W) to the network's image of it, float64."""
    ratio = [to / of for to, of in zip(network, size, strict=True)]
    return check_boxes(boxes) * torch.tensor([ratio[1], ratio[0]] * 2, dtype=torch.float64)


def box_blocks(boxes: Tensor, patch: int, grid: tuple[int, int]) -> Tensor:
    """Return the block of patches of each box, by the rule of FALIP: an edge on a border belongs to the patch before.

    Args:
        boxes: (R, 4) float64 in pixels of the network's image, see `rescale`; what lies outside is cut off.
        patch: Side of a patch in pixels.
        grid: Rows and columns (h, w) of the patches.

    Returns:
        First column, first row, last column, last row (R, 4) int64, all inclusive.
    """
    sides = torch.tensor([grid[1], grid[0]] * 2)
    return torch.ceil(boxes / patch).long().clamp(min=1).minimum(sides) - 1


def covered(blocks: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return which patches (R, h, w) bool belong to blocks (R, 4) as `box_blocks` gives them."""
    left, top, right, bottom = blocks.unbind(1)
    rows, columns = (torch.arange(side) for side in grid)
    inside = (rows >= top[:, None]) & (rows <= bottom[:, None])
    across = (columns >= left[:, None]) & (columns <= right[:, None])
    return inside[:, :, None] & across[:, None]


def bowl(blocks: Tensor, grid: tuple[int, int], sigma: float = 100.0) -> Tensor:
    """Return FALIP's bias of unit height over blocks of patches: 1 in the centre of a block, 0 in its corners.

    It is a Gaussian of the distance to the centre, stretched to 0..1; blocks without a nearest patch are all 1.

    Args:
        blocks: (R, 4), see `box_blocks`.
        grid: Rows and columns (h, w) of the patches.
        sigma: Of the Gaussian, in patches. The default is so wide that a quadratic bowl is left of it.

    Returns:
        (R, h, w) float32; 0 outside the blocks.
    """
    left, top, right, bottom = blocks.double().unbind(1)
    rows, columns = (torch.arange(side, dtype=torch.float64) for side in grid)
    down = (rows - ((top + bottom) / 2)[:, None]).square()
    across = (columns - ((left + right) / 2)[:, None]).square()
    distance = (down[:, :, None] + across[:, None]).sqrt()
    # The differences are near float32's resolution of 1, and the original's rounding is in the published numbers.
    height = torch.exp(-0.5 * (distance / sigma).square()).float().double()
    inside = covered(blocks, grid)
    low = height.masked_fill(~inside, torch.inf).amin((1, 2), keepdim=True)
    high = height.masked_fill(~inside, -torch.inf).amax((1, 2), keepdim=True)
    return ((height - low + 1e-6) / (high + 1e-6 - low)).where(inside, 0).float()


def mask_cover(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return which patches (R, h, w) bool hold at least one pixel of masks (R, H, W) bool of any size."""
    return F.adaptive_max_pool2d(masks[:, None].float(), grid)[:, 0] > 0


def paint(embeddings: Tensor, cover: Tensor) -> Tensor:
    """Give each patch the mean of the unit embeddings of the regions that cover it.

    Args:
        embeddings: Of regions (B, R, D), of any length.
        cover: Patches of the regions (R, h, w) bool; each patch should be in one of them, or gets zeros.

    Returns:
        Features (B, D, h, w) of the dtype of the embeddings.
    """
    weights = cover.flatten(1).to(embeddings.device, torch.float32)
    total = F.normalize(embeddings.float(), dim=-1).mT @ weights
    return (total / weights.sum(0).clamp(min=1)).unflatten(2, cover.shape[1:]).to(embeddings.dtype)


@dataclass(frozen=True)
class RegionScores:
    """How regions fit captions.

    Attributes:
        logits: (R, K) float32.
        probabilities: (R, K): how likely each region is the one that a caption means; columns sum to 1.
        best: (K,) int64: the best region for each caption.
    """

    logits: Tensor
    probabilities: Tensor
    best: Tensor


def score_regions(
    embeddings: Tensor, captions: Tensor, logit_scale: float = 100.0, negatives: Tensor | None = None
) -> RegionScores:
    """Let captions choose among regions, as referring-expression benchmarks do.

    Args:
        embeddings: Of the regions of one image (R, D), of any length.
        captions: Embeddings (K, D), of any length; FALIP writes ``a photo of {caption}``.
        logit_scale: Between cosines and logits; ``clip.logit_scale``.
        negatives: Embeddings (M, D) of captions that mean none of them; their mean cosine is subtracted.
    """
    regions, texts = (F.normalize(rows.float(), dim=-1) for rows in (embeddings, captions))
    cosines = regions @ texts.to(regions.device).mT
    if negatives is not None:
        against = F.normalize(negatives.float(), dim=-1).to(regions.device)
        cosines = cosines - (regions @ against.mT).mean(1, keepdim=True)
    logits = logit_scale * cosines
    return RegionScores(logits, logits.softmax(0), logits.argmax(0))
