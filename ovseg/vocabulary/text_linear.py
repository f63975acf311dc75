"""A linear map of texts, fitted on images and captions, that says which word belongs to which (LABCLIP).

Koishigarina et al., CLIP Behaves like a Bag-of-Words Model Cross-modally but not Uni-modally, arXiv 2502.03566;
github.com/kdariina/CLIP-not-BoW-unimodally. Images stay as they are, so what was encoded can be asked by it. The
identity is CLIP itself. It is fitted on captions: single nouns gain nothing, by design; "red cup" may.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg.checkpoint.files import read_state_dict
from ovseg.errors import VocabularyError, WeightsError
from ovseg.system.files import atomic_write

KEY = "matrix"


def apply_linear(rows: Tensor, matrix: Tensor) -> Tensor:
    """Return ``W t / |W t|`` (..., D) for rows t (..., D), given W (D, D)."""
    return F.normalize(rows @ matrix.to(rows).mT, dim=-1)


def caption_loss(images: Tensor, texts: Tensor, negatives: Tensor | None, scale: Tensor) -> Tensor:
    """Return the mean of both directions of CLIP's loss, ().

    Args:
        images: Unit rows (B, D).
        texts: Unit rows (B, D), mapped; row i says what image i shows.
        negatives: Unit rows (B, D), mapped: captions that say it in a wrong way, which images must not find, either.
        scale: Logarithm of the factor of the cosines, ().
    """
    every = texts if negatives is None else torch.cat([texts, negatives])
    logits = images @ every.mT * scale.exp()
    wanted = torch.arange(len(images), device=images.device)
    back = logits[:, : len(texts)].mT
    return (F.cross_entropy(logits, wanted) + F.cross_entropy(back, wanted)) / 2


class Fit:
    """The map while it is fitted, by Adam from the identity and a factor of 1.

    Attributes:
        matrix: (D, D) float32.
        scale: Logarithm of the factor, ().
    """

    def __init__(self, dim: int, rate: float = 1e-3) -> None:
        """Start for rows of a length, with a learning rate."""
        self.matrix = torch.eye(dim, requires_grad=True)
        self.scale = torch.zeros((), requires_grad=True)
        self.optimizer = torch.optim.Adam([self.matrix, self.scale], lr=rate)

    def loss(self, images: Tensor, texts: Tensor, negatives: Tensor | None) -> Tensor:
        """Return `caption_loss` of unit rows (B, D) that are not mapped yet."""
        wrong = None if negatives is None else apply_linear(negatives, self.matrix)
        return caption_loss(images, apply_linear(texts, self.matrix), wrong, self.scale)

    def epoch(self, images: Tensor, texts: Tensor, negatives: Tensor | None, batch: int) -> float:
        """Learn from all rows (N, D) in their order; returns the mean of the losses of the batches."""
        found = []
        with torch.enable_grad():
            for part in _batches(images, texts, negatives, batch):
                loss = self.loss(*part)
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                found.append(float(loss.detach()))
        return sum(found) / len(found)

    @torch.no_grad()
    def mean_loss(self, images: Tensor, texts: Tensor, negatives: Tensor | None, batch: int) -> float:
        """Return the mean of the losses of the batches, and learn nothing."""
        found = [float(self.loss(*part)) for part in _batches(images, texts, negatives, batch)]
        return sum(found) / len(found)


def _batches(
    images: Tensor, texts: Tensor, negatives: Tensor | None, batch: int
) -> list[tuple[Tensor, Tensor, Tensor | None]]:
    parts = [slice(start, start + batch) for start in range(0, len(images), batch)]
    return [(images[part], texts[part], None if negatives is None else negatives[part]) for part in parts]


def write_linear(matrix: Tensor, path: Path) -> None:
    """Write a map (D, D) for ``MODEL.TEXT.LINEAR``."""
    from safetensors.torch import save_file

    with atomic_write(path) as temporary:
        save_file({KEY: matrix.detach().float().cpu().contiguous()}, temporary)


def read_linear(path: Path) -> Tensor:
    """Read a map (D, D) float32: ``matrix`` of a safetensors file, or the only square matrix that a file holds.

    Raises:
        VocabularyError: The file is missing, or holds something else.
    """
    if not path.is_file():
        raise VocabularyError(f"there is no map of texts '{path}'; fit one with ovseg.vocabulary.text_linear.Fit")
    try:
        found = read_state_dict(path)
    except WeightsError as error:
        raise VocabularyError(f"the map of texts cannot be read: {error}") from error
    square = {key: value for key, value in found.items() if value.ndim == 2 and len(value) == value.shape[1]}
    if KEY not in square and len(square) != 1:
        shapes = ", ".join(f"{key} {tuple(value.shape)}" for key, value in list(found.items())[:3]) or "nothing"
        raise VocabularyError(f"'{path}' holds {shapes}; expected one square matrix, as `write_linear` writes it")
    return square.get(KEY, next(iter(square.values()))).float()
