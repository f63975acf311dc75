"""TextSpan: texts whose directions explain most of what one attention head contributes (arXiv 2310.05916)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ovseg.errors import InputError


@dataclass(frozen=True)
class TextSpan:
    """Texts that span the outputs of a head.

    Attributes:
        reconstruction: (N, D) float32: the mean output, plus the projections on the directions that were chosen.
        selected: (steps,) int64: indices of the texts, the most telling one first.
    """

    reconstruction: Tensor
    selected: Tensor


@torch.no_grad()
def text_span(head_outputs: Tensor, text_features: Tensor, steps: int = 20, rank: int = 80) -> TextSpan:
    """Describe a head of CLIP by texts, greedily (algorithm 1 of the paper; github.com/yossigandelsman/clip_text_span).

    Texts are first projected on the space that the head writes to. Then, step by step, the text along which the images
    differ most is taken, and its direction is removed from images and texts.

    Args:
        head_outputs: What a head contributed to N images (N, D): ``decompose(clip, images).heads[:, layer, head]``.
        text_features: Candidate texts (M, D).
        steps: How many texts to take.
        rank: Number of singular directions of the outputs, which are not centred, that texts are projected on.

    Raises:
        InputError: Shapes do not fit, or more texts are asked for than there are directions.
    """
    shapes = tuple(head_outputs.shape), tuple(text_features.shape)
    if {len(shape) for shape in shapes} != {2} or shapes[0][1] != shapes[1][1]:
        raise InputError(f"got outputs {shapes[0]} and texts {shapes[1]}; expected (N, D) and (M, D)")
    limit = min(rank, *head_outputs.shape, len(text_features))
    if not 1 <= steps <= limit or len(head_outputs) < 2:
        raise InputError(
            f"{steps} texts were asked for of {len(head_outputs)} images, {len(text_features)} texts and rank {rank}; "
            f"expected 1 to {limit} and at least 2 images"
        )
    outputs, texts = head_outputs.float(), text_features.float()
    basis = torch.linalg.svd(outputs, full_matrices=False)[2][:rank]
    texts = texts @ basis.mT @ basis
    mean = outputs.mean(0)
    outputs = outputs - mean
    reconstruction, selected = mean.expand_as(outputs), []
    for _ in range(steps):
        best = (outputs @ texts.mT).std(0).argmax()
        direction = texts[best] / texts[best].norm()
        explained = (outputs @ direction)[:, None] * direction
        reconstruction, outputs = reconstruction + explained, outputs - explained
        texts = texts - (texts @ direction)[:, None] * direction
        selected.append(best)
    return TextSpan(reconstruction, torch.stack(selected))
