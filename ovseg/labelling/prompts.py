"""What a click or a box means: one of the masks that a model proposes."""

from __future__ import annotations

import torch
from torch import Tensor

from ovseg.labelling.mask_resize import MaskResize, tiles
from ovseg.result.prompts import Found, Prompt


def of_proposals(shares: Tensor, masks: Tensor, resize: MaskResize, prompt: Prompt) -> Found:
    """Find the proposed mask that a prompt means.

    It is the one with the largest product of: its probability at the points, one minus that at the points away, its
    overlap (IoU) with the box, how sure it is of its own pixels, and how probably it is an object. The mean certainty
    keeps large vague masks and small noisy ones from winning, which the smallest mask around a point does not.

    Its names are those of all proposals, each counted by how much of the mask it covers: of several proposals for one
    object often another one has the right name.

    Args:
        shares: Class probabilities (Q, C + 1), "no object" last.
        masks: Logits (Q, h, w).
        resize: Their way to the photograph.
        prompt: On the photograph.
    """
    value = 1 - shares[:, -1].float()
    for row, column, inside in prompt.places:
        here = resize.probabilities(masks, (slice(row, row + 1), slice(column, column + 1))).flatten()
        value = value * (here if inside else 1 - here)
    # Certainty and areas are read on the masks' own cells: a photograph has many times as many pixels.
    own = masks.float().sigmoid()
    filled = own > 0.5
    area = filled.flatten(1).sum(1)
    value = value * (own * filled).flatten(1).sum(1) / area.clamp(min=1)
    if prompt.box is not None:
        value = value * _overlap(masks, resize, prompt.box)
    best = value.argmax()[None]
    full = torch.zeros(resize.size, dtype=torch.bool, device=masks.device)
    for tile in tiles(resize.size, masks.device):
        full[tile] = resize.probabilities(masks, tile, best)[0] > 0.5
    chosen = filled[best[0]]
    covers = (own * chosen).flatten(1).sum(1) / chosen.sum().clamp(min=1)
    return Found(full, covers @ shares[:, :-1].float())


def _overlap(masks: Tensor, resize: MaskResize, box: tuple[float, float, float, float]) -> Tensor:
    """Return the IoU (Q,) of masks with a box on the photograph, counted in pixels tile by tile."""
    left, top, right, bottom = (round(edge) for edge in box)
    both, either = (torch.zeros(len(masks), device=masks.device) for _ in range(2))
    for rows, columns in tiles(resize.size, masks.device):
        own = resize.probabilities(masks, (rows, columns)) > 0.5
        drawn = torch.zeros(own.shape[1:], dtype=torch.bool, device=masks.device)
        drawn[max(0, top - rows.start) : max(0, bottom - rows.start), max(0, left - columns.start) :] = True
        drawn[:, max(0, right - columns.start) :] = False
        both += (own & drawn).flatten(1).sum(1)
        either += (own | drawn).flatten(1).sum(1)
    return both / either.clamp(min=1)
