"""Position embeddings of a file that was trained at another size than the architecture has."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg.errors import WeightsError

_IMAGE = re.compile(
    r"visual\.(?:positional_embedding|trunk\.pos_embed|attnpool\.positional_embedding)"
    r"|vision_model\.embeddings\.position_embedding\.weight"
)
_TEXT = re.compile(r"(?:text\.)?positional_embedding|text_model\.embeddings\.position_embeddings?\.weight")


def fit_tables(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor], resize: bool, source: str, name: str
) -> tuple[dict[str, Tensor], list[str]]:
    """Fit tables of position embeddings to those of a model, as open_clip does when it loads.

    Tables of images are interpolated over their grid (bicubic, with a low-pass filter), leading tokens stay; those of
    texts along their length (linear).

    Args:
        own: State dict of the model.
        state: Of a file.
        resize: Whether to; else a table of another size is an error.
        source: What to call the file.
        name: What to call the model.

    Returns:
        The state dict, and notes on what was resized.

    Raises:
        WeightsError: A table has another size and is not to be resized, or its grid cannot be told.
    """
    other = {
        key: place
        for key, place in own.items()
        if (_IMAGE.fullmatch(key) or _TEXT.fullmatch(key)) and key in state and _differ_in_length(state[key], place)
    }
    found, sizes = dict(state), []
    for key, place in other.items():
        image = bool(_IMAGE.fullmatch(key))
        sizes.append((_size(state[key], image), _size(place, image)))
        if resize:
            found[key] = _resized_grid(state[key], place) if image else _resized_line(state[key], place)
    if sizes and not resize:
        was, wanted = (" and ".join(one) for one in zip(*sizes, strict=True))
        raise WeightsError(
            f"{source} has position embeddings of {was}, {name} of {wanted}; name the architecture of the file, or set "
            "MODEL.CLIP.RESIZE_POSITION to True to interpolate them"
        )
    return found, [f"{source}: position embeddings of {was} were resized to {wanted}" for was, wanted in sizes]


def _differ_in_length(table: Tensor, place: Tensor) -> bool:
    return table.ndim == place.ndim and table.shape[-1] == place.shape[-1] and table.shape[-2] != place.shape[-2]


def _size(table: Tensor, image: bool) -> str:
    count = table.shape[-2]
    if not image:
        return f"{count} tokens"
    leading, side = _grid(count)
    return f"{side} x {side} patches" if side else f"{count - leading} patches in no square"


def _grid(count: int) -> tuple[int, int]:
    """Return how many leading tokens a table has and the side of its square; a side of 0 where it is none."""
    for leading in (0, 1):
        side = math.isqrt(count - leading)
        if side and side * side == count - leading:
            return leading, side
    return 0, 0


def _resized_grid(table: Tensor, place: Tensor) -> Tensor:
    (leading, side), (_, wanted) = _grid(table.shape[-2]), _grid(place.shape[-2])
    if not side or not wanted:
        raise WeightsError(
            f"position embeddings of {_size(table, True)} cannot be resized to {_size(place, True)}; expected squares"
        )
    rows = table.float().reshape(-1, table.shape[-1])
    patches = rows[leading:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    patches = F.interpolate(patches, (wanted, wanted), mode="bicubic", antialias=True, align_corners=False)
    grown = torch.cat([rows[:leading], patches.permute(0, 2, 3, 1).reshape(wanted * wanted, -1)])
    return grown.reshape(place.shape).to(table.dtype)


def _resized_line(table: Tensor, place: Tensor) -> Tensor:
    line = F.interpolate(table.float().T[None], place.shape[-2], mode="linear", align_corners=False)
    return line[0].T.reshape(place.shape).to(table.dtype)
