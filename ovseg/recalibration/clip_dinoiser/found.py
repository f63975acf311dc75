"""FOUND's objectness head (Simeoni et al., CVPR 2023; github.com/valeoai/FOUND): one 1 x 1 convolution."""

from __future__ import annotations

import os
from pathlib import Path

from torch import nn

from ovseg.checkpoint.files import read_part
from ovseg.checkpoint.strict import load_strict
from ovseg.errors import WeightsError


def load_found(file: str | Path) -> nn.Conv2d:
    """Load FOUND's decoder; it reads the keys of DINO's last block and gives logits (B, 1, h, w) of objects.

    Args:
        file: Such as the original's ``data/weights/decoder_weights.pt``: a pickled dict with ``decoder``: weight, bias.

    Raises:
        WeightsError: The file is missing or unreadable, or its tensors are others; names them.
    """
    path = Path(os.path.expanduser(file))
    state = read_part(path, "decoder")
    weight = state.get("weight")
    if weight is None or weight.ndim != 4:
        raise WeightsError(
            f"{path.name} is no head of FOUND; expected 'decoder' with weight (1, channels, 1, 1) and bias (1), "
            "as in github.com/valeoai/FOUND, data/weights"
        )
    head = nn.Conv2d(weight.shape[1], 1, 1)
    load_strict(head, state, path.name, "FOUND's head")
    return head.eval().requires_grad_(False)
