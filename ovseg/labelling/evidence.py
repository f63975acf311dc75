"""Why a pixel has its label: what speaks for each class there, and which of its names."""

from __future__ import annotations

import torch
from torch import Tensor

from ovseg.contract import Evidence, Words
from ovseg.labelling.mask_resize import MaskResize


def of_queries(probabilities: Tensor, words: Words) -> Evidence:
    """Take for each column its best row.

    Args:
        probabilities: (T,) of the rows of the words at a pixel.
        words: The words.
    """
    columns = words.columns.to(probabilities.device)
    return _best_rows(probabilities.float(), probabilities.float(), columns)


def of_masks(
    shares: Tensor, cosines: Tensor, masks: Tensor, resize: MaskResize, words: Words, point: tuple[int, int]
) -> Evidence:
    """Sum class times mask probability over queries; of a column's rows the one counts that its main mask is next to.

    Args:
        shares: Class probabilities (Q, C + 1) of the columns, "no object" last.
        cosines: How near each mask is to each row, (Q, T).
        masks: Logits (Q, h, w).
        resize: Their way to the photograph.
        words: The words.
        point: Row and column of the pixel.
    """
    y, x = point
    inside = resize.probabilities(masks, (slice(y, y + 1), slice(x, x + 1))).flatten()
    parts = shares[:, :-1].float() * inside[:, None]
    main = parts.argmax(0)
    columns = words.columns.to(shares.device)
    near = cosines.float()[main[columns], torch.arange(len(columns), device=shares.device)]
    return Evidence(parts.sum(0).cpu(), _best_rows(near, near, columns).rows)


def _best_rows(values: Tensor, scores: Tensor, columns: Tensor) -> Evidence:
    """Return for each column its largest value, and the row that has it, of equal ones the first."""
    count = int(columns.max()) + 1
    best = scores.new_full((count,), -torch.inf).scatter_reduce(0, columns, scores, "amax")
    places = torch.arange(len(columns), device=columns.device)
    last = len(columns)
    mine = torch.where(values == best[columns], places, last)
    rows = places.new_full((count,), last).scatter_reduce(0, columns, mine, "amin")
    return Evidence(best.cpu(), rows.cpu())
