"""Marks drawn on images that tell CLIP where to look: circles, blur, greyscale, crops; one marked image per box.

The sizes are those of the code of ReCLIP and FALIP, in pixels of the image that is drawn on. They draw on the
photograph and resize then; here the network's image is drawn on, so that pixels are resized once, not once per box.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

RED = (1.0, 0.0, 0.0)
BLUR = 100.0
"""Standard deviation of the blur in pixels: little more than the mean colour is left."""
LUMA = (0.299, 0.587, 0.114)

VIEWS = {
    "circle": ("ellipse", "keep"),
    "circle_blur": ("ellipse", "blur"),
    "circle_grey": ("ellipse", "grey"),
    "blur": ("box", "blur"),
    "grey": ("box", "grey"),
    "crop": ("box", "crop"),
}
"""What each view shows: the shape that a box means, which is outlined in red if it is an ellipse, and its outside."""

PROMPTS = {**{name: (name,) for name in VIEWS}, "ensemble": ("circle", "circle_blur", "circle_grey")}
"""The views of each prompt; the ensemble is that of the paper on red circles (ICCV 2023, arXiv 2304.06712)."""


def mark(rgb: Tensor, boxes: Tensor, view: str) -> Tensor:
    """Draw one box on each copy of images; the line of an ellipse is 1/200 of the longer side wide, at least a pixel.

    Args:
        rgb: (B, 3, H, W) in 0..1.
        boxes: (R, 4) ``x0, y0, x1, y1`` in pixels; `ovseg.regions.boxes.check_boxes` checks those of users.
        view: One of `VIEWS`.

    Returns:
        (B, R, 3, H, W) float32.
    """
    shape, outside = VIEWS[view]
    rgb, boxes = rgb.float(), boxes.to(rgb.device, torch.float32)
    size = (rgb.shape[2], rgb.shape[3])
    if outside == "crop":
        return crop(rgb, boxes)
    inside = (ellipses if shape == "ellipse" else rectangles)(boxes, size)[:, None]
    marked = rgb[:, None].where(inside, {"keep": _same, "blur": blur, "grey": grey}[outside](rgb)[:, None])
    if shape == "ellipse":
        line = inside & ~ellipses(boxes, size, inset=max(1, max(size) // 200))[:, None]
        marked = marked.where(~line, torch.tensor(RED, device=rgb.device).view(3, 1, 1))
    return marked


def ellipses(boxes: Tensor, size: tuple[int, int], inset: float = 0.0) -> Tensor:
    """Return the pixels (R, H, W) bool within the ellipses that fill boxes (R, 4), less a rim of ``inset`` pixels."""
    x, y = _centres(size, boxes)
    half = ((boxes[:, 2:] - boxes[:, :2]) / 2 - inset)[:, :, None]
    middle = ((boxes[:, 2:] + boxes[:, :2]) / 2)[:, :, None]
    across = ((x - middle[:, 0]) / half[:, 0].clamp(min=1e-6)).square()
    down = ((y - middle[:, 1]) / half[:, 1].clamp(min=1e-6)).square()
    return down[:, :, None] + across[:, None] <= 1


def rectangles(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the pixels (R, H, W) bool whose centres lie in boxes (R, 4)."""
    x, y = _centres(size, boxes)
    left, top, right, bottom = boxes[:, :, None].unbind(1)
    return ((y >= top) & (y <= bottom))[:, :, None] & ((x >= left) & (x <= right))[:, None]


def blur(rgb: Tensor, std: float = BLUR) -> Tensor:
    """Blur images (B, 3, H, W) by a Gaussian of ``std`` pixels; the pixels of the rim go on outside."""
    rows, columns = (_blur_matrix(side, std).to(rgb) for side in rgb.shape[2:])
    return rows @ rgb @ columns.mT


def grey(rgb: Tensor) -> Tensor:
    """Return images (B, 3, H, W) without their colours."""
    return (rgb * torch.tensor(LUMA, device=rgb.device).view(3, 1, 1)).sum(1, keepdim=True).expand_as(rgb)


def crop(rgb: Tensor, boxes: Tensor) -> Tensor:
    """Enlarge boxes (R, 4) to the size of their images (B, 3, H, W), bilinearly: (B, R, 3, H, W)."""
    batch, (height, width) = len(rgb), rgb.shape[2:]
    left, top, right, bottom = (boxes / boxes.new_tensor([width, height] * 2)).unbind(1)
    none = torch.zeros_like(left)
    maps = torch.stack([right - left, none, left + right - 1, none, bottom - top, top + bottom - 1], dim=1)
    places = F.affine_grid(maps.view(-1, 2, 3).to(rgb), [len(boxes), 3, height, width], align_corners=False)
    copies, places = rgb[:, None].expand(-1, len(boxes), -1, -1, -1), places.repeat(batch, 1, 1, 1)
    found = F.grid_sample(copies.flatten(0, 1), places, padding_mode="border", align_corners=False)
    return found.unflatten(0, (batch, len(boxes)))


def _same(rgb: Tensor) -> Tensor:
    return rgb


def _centres(size: tuple[int, int], boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the centres of the pixels of an image of ``size`` (height, width): x (W,) and y (H,)."""
    y, x = (torch.arange(side, dtype=boxes.dtype, device=boxes.device) + 0.5 for side in size)
    return x, y


def _blur_matrix(side: int, std: float) -> Tensor:
    """Return (side, side) float64: what each pixel of a line takes from every other; rows sum to 1."""
    places = torch.arange(side, dtype=torch.float64)
    borders = torch.arange(1, side, dtype=torch.float64) - 0.5
    below = torch.special.ndtr((borders - places[:, None]) / std)
    below = torch.cat([torch.zeros(side, 1), below, torch.ones(side, 1)], dim=1)
    return below.diff(dim=1)
