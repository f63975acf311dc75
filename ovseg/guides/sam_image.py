"""What SAM's image encoder sees of a photograph, once: for its decoder, and for the attention of its last block."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ovseg.guides.base import entering


@dataclass(frozen=True)
class SamImage:
    """An encoded photograph, as SAM's decoder wants it.

    Attributes:
        embedding: (1, C, g, g) float32, of the square that the photograph was padded to.
        input_size: Height and width of the photograph in it.
        original_size: Those of the photograph.
    """

    embedding: Tensor
    input_size: tuple[int, int]
    original_size: tuple[int, int]


def fitted(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Return the sides of a picture (height, width) whose longer one becomes so long, by SAM's rounding; 1 at least."""
    height, width = (max(int(length * (side / max(size)) + 0.5), 1) for length in size)
    return height, width


def look(sam: Any, pixels: np.ndarray) -> tuple[SamImage, Tensor]:
    """Encode a photograph.

    Args:
        sam: A SAM of segment_anything.
        pixels: RGB (H, W, 3) uint8.

    Returns:
        The image, and the tokens (g, g, D) that enter the attention of the last block.
    """
    encoder, size = sam.image_encoder, (pixels.shape[0], pixels.shape[1])
    height, width = fitted(size, encoder.img_size)
    resized = np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))
    planes = torch.from_numpy(resized).permute(2, 0, 1)[None].to(sam.pixel_mean.device, torch.float32)
    with torch.autocast(planes.device.type, enabled=False), entering([encoder.blocks[-1].attn]) as entered:
        embedding = encoder(sam.preprocess(planes))
    return SamImage(embedding, (height, width), size), entered[0][0]


def last_attention(sam: Any, tokens: Tensor, grid: tuple[int, int]) -> tuple[Iterator[Tensor], Tensor]:
    """Return the attention of the last block among the cells that show something, head by head, and its values.

    Args:
        sam: A SAM of segment_anything.
        tokens: (g, g, D), of `look`.
        grid: Rows and columns (h, w) of those cells.

    Returns:
        Weights (M, M) of each head, M = h * w, whose softmax ran over all cells of the square, so that rows sum to 1 at
        most; and values (heads, M, d).
    """
    attention, side = sam.image_encoder.blocks[-1].attn, tokens.shape[0]
    parts = attention.qkv(tokens).unflatten(-1, (3, attention.num_heads, -1)).permute(2, 3, 0, 1, 4)
    query, key, value = parts.unbind(0)  # (heads, g, g, d)
    height, width = grid
    query, value = query[:, :height, :width], value[:, :height, :width].flatten(1, 2)

    def weights() -> Iterator[Tensor]:
        for own, keys in zip(query, key, strict=True):
            scores = attention.scale * torch.einsum("hwd,yxd->hwyx", own, keys)
            if attention.use_rel_pos:
                rows, columns = (_relative(table, side) for table in (attention.rel_pos_h, attention.rel_pos_w))
                scores += torch.einsum("hwd,hyd->hwy", own, rows[:height])[..., None]
                scores += torch.einsum("hwd,wxd->hwx", own, columns[:width])[:, :, None]
            shares = scores.flatten(2).softmax(-1).unflatten(-1, (side, side))
            yield shares[..., :height, :width].flatten(2).flatten(0, 1)

    return weights(), value


def _relative(table: Tensor, side: int) -> Tensor:
    """Return the embeddings (g, g, d) of how far queries are from keys along an axis, of a table (2 g - 1, d)."""
    places = torch.arange(side, device=table.device)
    return table[places[:, None] - places + side - 1]


def cells(sam: Any, image: SamImage) -> tuple[int, int]:
    """Return the rows and columns of the cells that the photograph fills; one where it is narrower than a cell."""
    patch = int(sam.image_encoder.patch_embed.proj.kernel_size[0])
    return max(image.input_size[0] // patch, 1), max(image.input_size[1] // patch, 1)


def ask(
    sam: Any, image: SamImage, points: Tensor, boxes: Tensor, mask: Tensor, frame: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Ask SAM's decoder for one mask of each of several regions.

    Args:
        sam: A SAM of segment_anything.
        image: Of `look`.
        points: (R, 2) x and y of a pixel of each region.
        boxes: (R, 4) x0, y0, x1, y1 around it.
        mask: (1, 1, 4 g, 4 g), what is known of the mask of all of them.
        frame: Height and width of the picture in whose pixels points and boxes are given.

    Returns:
        Logits (R, 4 g, 4 g) of the masks, in the square; see `whole_mask`. And how good SAM takes them to be (R,).
    """
    high, wide = fitted(frame, sam.image_encoder.img_size)
    ratio = torch.tensor([wide / frame[1], high / frame[0]], device=points.device)
    labels = torch.ones(len(points), 1, dtype=torch.int, device=points.device)
    prompts = ((points * ratio)[:, None], labels)
    with torch.autocast(points.device.type, enabled=False):
        sparse, dense = sam.prompt_encoder(points=prompts, boxes=boxes * ratio.repeat(2), masks=mask)
        masks, quality = sam.mask_decoder(
            image_embeddings=image.embedding,
            image_pe=sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
    return masks[:, 0], quality[:, 0]


def whole_mask(sam: Any, image: SamImage, mask: Tensor) -> Tensor:
    """Bring the logits (4 g, 4 g) of one mask to the size of the photograph: (H, W)."""
    side, (height, width) = sam.image_encoder.img_size, image.input_size
    square = F.interpolate(mask[None, None], (side, side), mode="bilinear", align_corners=False)[..., :height, :width]
    return F.interpolate(square, image.original_size, mode="bilinear", align_corners=False)[0, 0]
