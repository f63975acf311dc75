"""Bottom-up merging of sibling segments that look or read alike (Zero-guidance segmentation)."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from ovseg.recalibration.zero_guidance.ward_tree import OverSegments


@dataclass(frozen=True)
class Merged:
    """What came of a merging, as places in the list of nodes.

    Attributes:
        final: The segments that are left; each covers its leaves.
        stored: All leaves and merged nodes, those left among them; both latest first.
        similarities: Of every pair that was tested, in the order of the tests.
    """

    final: list[int]
    stored: list[int]
    similarities: list[float]


def named_segments(
    segments: OverSegments, embeddings: Tensor, words: Tensor, weight: float, threshold: float
) -> tuple[Tensor, Tensor]:
    """Name all nodes by the nearest word, and merge the leaves as far as they are alike.

    Args:
        segments: Leaves and the nodes above them, labels as a map (a, b).
        embeddings: (n, D) of all nodes, of any length.
        words: (T, D) float32 unit rows.
        weight: As in `pair_similarity`.
        threshold: As in `merge_siblings`.

    Returns:
        Cosines (R, T) of the segments that are left and the words, and their masks (R, a, b), both float32.
    """
    cosines = F.normalize(embeddings.float(), dim=1) @ words.mT
    similarity = pair_similarity(embeddings, words[cosines.argmax(1)], weight)
    final = merge_siblings(segments, similarity, threshold).final
    return cosines[final], segments.under[final].float()[:, segments.labels]


def pair_similarity(images: Tensor, texts: Tensor, weight: float) -> Tensor:
    """Return the similarities (n, n) float32 of segments.

    Args:
        images: (n, D) embeddings of the segments, of any length.
        texts: (n, D) embeddings of their words.
        weight: Share of the cosine of the images, 0..1; the rest is that of the texts.
    """
    image, text = (F.normalize(rows.float(), dim=1) for rows in (images, texts))
    return weight * (image @ image.mT) + (1 - weight) * (text @ text.mT)


def merge_siblings(segments: OverSegments, similarity: Tensor, threshold: float) -> Merged:
    """Merge siblings from the leaves up; a pair that differs ends the way to the root.

    Args:
        segments: Leaves and the nodes above them.
        similarity: (n, n) of all nodes, in their order.
        threshold: From which similarity on two siblings become one.
    """
    rows, table = {node: row for row, node in enumerate(segments.nodes)}, similarity.tolist()
    stack = segments.nodes[: segments.leaves]
    stored: dict[int, bool] = {}  # tree id: whether it is a segment of its own, not part of a merged one
    tested: list[float] = []
    while stack:
        node = stack.pop()
        if rows[node] >= segments.leaves:
            children = (2 * node + 1, 2 * node + 2)
            tested.append(table[rows[children[0]]][rows[children[1]]])
            if tested[-1] < threshold:
                continue
            stored |= dict.fromkeys(children, False)
        stored[node] = True
        sibling = node + 1 if node % 2 else node - 1
        if stored.get(sibling):
            stack.append((node - 1) // 2)
    latest = list(reversed(stored))
    return Merged([rows[node] for node in latest if stored[node]], [rows[node] for node in latest], tested)
