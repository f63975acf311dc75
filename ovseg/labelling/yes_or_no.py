"""Yes or no for each class by itself: every row has a counter row, and a pixel says which of the two it is like.

Wang et al., Exploring CLIP for Assessing the Look and Feel of Images, AAAI 2023, arXiv 2207.12396 (CLIP-IQA, whole
images); as maps it is ours. Pairs know nothing of each other: what different classes get does not sum to 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ovseg.contract import CLASS_SCORES, Answer
from ovseg.labelling.scores import Stream

LINE = 0.5
"""Pixels that say yes to no class by more than this have none."""


def probability_of_yes(yes: Tensor, no: Tensor, scale: float) -> Tensor:
    """Return the softmax of each pair, its first entry.

    Args:
        yes: Cosines (...) with the row of a class.
        no: The same with its counter row.
        scale: Between cosines and logits; 100 in CLIP-IQA.
    """
    return torch.stack([scale * yes, scale * no], -1).softmax(-1)[..., 0]


def of_pairs(streamed: Stream, query_to_class: Tensor, want: frozenset[str]) -> Answer:
    """Label every pixel by the class to which it says yes most surely, if it says yes to one; a few maps at a time.

    Args:
        streamed: Of what speaks for each query and against its counter row, the difference of their scores.
        query_to_class: Class (T,) of each query.
        want: Whether the probabilities of all classes are wanted, too.
    """
    device, size, classes = streamed.logits.device, streamed.size, query_to_class.tolist()
    labels = torch.full(size, -1, dtype=torch.int32, device=device)
    best = torch.zeros(size, device=device)
    count = max(classes) + 1 if CLASS_SCORES in want else 0
    every = torch.zeros(count, *size, device=device)
    done = 0
    for logits in streamed.maps():
        chance = logits.sigmoid()  # of two the softmax
        part = classes[done : done + len(chance)]
        highest, place = chance.max(0)
        own = torch.tensor(part, dtype=torch.int32, device=device)[place]
        labels = torch.where((highest > best) & (highest > LINE), own, labels)
        best = torch.maximum(best, highest)
        for index, one in zip(part if count else (), chance, strict=False):
            torch.maximum(every[index], one, out=every[index])
        done += len(chance)
    return Answer(labels, best, class_scores=every if count else None)
