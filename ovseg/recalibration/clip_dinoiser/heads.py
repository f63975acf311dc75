"""The two light heads of CLIP-DINOiser, and the layout in which they are stored (see `load_heads`)."""

from __future__ import annotations

import os
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from ovseg.checkpoint.files import read_part
from ovseg.checkpoint.strict import load_strict
from ovseg.errors import WeightsError

PACKAGE = Path(__file__).resolve().parents[2]
_HOW = (
    "train heads with tools/train_clip_dinoiser.py of the repository, take checkpoints/last.pt of "
    "github.com/wysoczanska/clip_dinoiser (made for ViT-B-16/laion2b_s34b_b88k), or "
    "set weights '' to pool without training by the features of a guide"
)


class LightHeads(nn.Module):
    """Two convolutions over features of a frozen CLIP that took their lesson from DINO and FOUND.

    Wysoczanska et al., CLIP-DINOiser, ECCV 2024; the modules have the names of the original.

    Attributes:
        name: The file they were read from.
    """

    def __init__(self, channels: int, dim: int = 256, kernel: int = 3) -> None:
        """Build them untrained.

        Args:
            channels: Of the features.
            dim: Length of the vectors whose cosines are the correlations.
            kernel: Odd side of the convolution that gives these vectors.
        """
        super().__init__()
        self.name = type(self).__name__
        self.obj_proj = nn.Conv2d(channels, dim, kernel, padding=kernel // 2, padding_mode="replicate")
        self.bkg_decoder = nn.Conv2d(channels, 1, 1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Read features (B, C, h, w), not of unit length.

        Returns:
            Vectors (B, dim, h, w) whose cosines say which patches belong together, and logits (B, 1, h, w) of showing
            an object.

        Raises:
            WeightsError: They were made for another width of CLIP.
        """
        if features.shape[1] != self.obj_proj.in_channels:
            raise WeightsError(
                f"the heads read {self.obj_proj.in_channels} channels but this CLIP gives {features.shape[1]}; {_HOW}"
            )
        features = features.to(self.obj_proj.weight.dtype)
        return self.obj_proj(features), self.bkg_decoder(F.normalize(features, dim=1))


def load_heads(file: str | Path | LightHeads) -> LightHeads:
    """Load heads of any width, vector length and odd kernel; these are read from the weights.

    Args:
        file: A path, or else one inside the package such as ``assets/mini/clip_dinoiser.safetensors``. Safetensors, or
            the layout of the original: a pickled dict with ``model_state_dict`` (and anything beside it). Heads are
            returned as they are.

    Raises:
        WeightsError: The file is missing or unreadable, or its tensors are not those of the heads; names them.
    """
    if isinstance(file, LightHeads):
        return file
    path = next((path for path in (Path(os.path.expanduser(file)), PACKAGE / file) if path.is_file()), None)
    if path is None:
        raise WeightsError(f"no heads of CLIP-DINOiser at '{file}'; {_HOW}")
    state = read_part(path, "model_state_dict")
    weight = state.get("obj_proj.weight")
    if weight is None or weight.ndim != 4 or weight.shape[2] != weight.shape[3] or weight.shape[2] % 2 == 0:
        got = "lacks it" if weight is None else f"has shape {tuple(weight.shape)}"
        raise WeightsError(f"{path.name} {got}; expected obj_proj.weight (dim, channels, k, k), k odd: {_HOW}")
    heads = LightHeads(weight.shape[1], weight.shape[0], weight.shape[2])
    load_strict(heads, state, path.name, f"the heads of CLIP-DINOiser for {weight.shape[1]} channels")
    heads.name = str(file)
    return heads.eval().requires_grad_(False)
