"""The decoder of SAM 3 as transformers has it, in a loop of our own."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def decode(
    decoder: Any, hidden: Tensor, place: Tensor, grid: tuple[int, int], tokens: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Look for phrases (k): their presence (k,), queries (k, Q, C) and boxes (k, Q, 4), centre and size in 0..1.

    transformers' own loop copies the bias of the boxes three times, which is most of what it does.

    Args:
        decoder: That of transformers.
        hidden: Tokens (k, N, C) of the image as each phrase sees it.
        place: Position encoding (1, N, C) of the image.
        grid: Height and width of the image in tokens.
        tokens: Of the phrases (k, n, C).
        mask: Which of them count, (k, n) bool.
    """
    boxes = decoder.reference_points.weight.sigmoid()[None].expand(len(tokens), -1, -1)
    start = torch.cat([decoder.presence_token.weight, decoder.query_embed.weight])
    state = start[None].expand(len(tokens), -1, -1)
    seen_by = mask[:, None, None].expand(-1, 1, len(start), -1)
    for layer in decoder.layers:
        position = decoder.ref_point_head(decoder.position_encoding.encode_boxes(boxes))
        state = layer(state, position, tokens, hidden, place, seen_by, box_bias(decoder, boxes, grid))
        moved = decoder.box_head(decoder.output_layer_norm(state[:, 1:]))
        boxes = (moved + inverse_sigmoid(boxes)).sigmoid()
    limit = decoder.clamp_presence_logit_max_val
    presence = decoder.presence_head(decoder.presence_layer_norm(state[:, 0]))[:, 0].clamp(-limit, limit)
    return presence, decoder.output_layer_norm(state[:, 1:]), boxes


def box_bias(decoder: Any, boxes: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return by how much queries look at places, (k, heads, 1 + Q, h * w), given their boxes (k, Q, 4).

    The first row is that of the presence token, which has no box.
    """
    centre, size = boxes.split(2, -1)
    ends = torch.stack([centre - size / 2, centre + size / 2], -1)  # (k, Q, 2, 2): of x and of y
    parts = []
    for axis, embed, length in ((0, decoder.box_rpb_embed_x, grid[1]), (1, decoder.box_rpb_embed_y, grid[0])):
        steps = torch.arange(length, device=boxes.device, dtype=boxes.dtype) / length
        apart = 8 * (steps[:, None] - ends[:, :, axis, None])
        told = embed(apart.sign() * torch.log2(apart.abs() + 1) / math.log2(8))
        parts.append(told.permute(0, 3, 1, 2))
    across, down = parts
    found = across.new_zeros(*across.shape[:2], 1 + across.shape[2], *grid)
    torch.add(down[..., None], across[..., None, :], out=found[:, :, 1:])
    return found.flatten(3)


def inverse_sigmoid(values: Tensor, least: float = 1e-3) -> Tensor:
    """Return logits of values in 0..1, of which those at the ends count as ``least`` away, as in the authors' code."""
    return torch.log(values.clamp(least, 1) / (1 - values).clamp(least, 1))
