"""Over-segments of an image by a Ward tree of its descriptors, cut from the root down (Zero-guidance segmentation).

A tree id is a place in a binary heap: the root is 0, the children of node i are 2i + 1 and 2i + 2.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Splits:
    """The first splits of a Ward tree, from the root down.

    Attributes:
        masks: (2S, N) bool; rows 2a and 2a + 1 are the two children of split a.
        parents: For each split the row of the mask that it divides, -1 for the root.
        similarity: (2S, 2S) float32, cosines of the mean descriptors of the masks.
    """

    masks: Tensor
    parents: tuple[int, ...]
    similarity: Tensor


@dataclass(frozen=True)
class OverSegments:
    """Leaves of a cut tree, and the nodes above them.

    Attributes:
        nodes: Tree ids of the leaves, then of all nodes above them; beyond 64 bits where a tree is that deep.
        under: (n, L) bool; which leaves lie under each node.
        labels: Leaf of every descriptor, int64: (N,), or (a, b) of a map.
        centroids: (L, C) mean descriptors of the leaves.
    """

    nodes: list[int]
    under: Tensor
    labels: Tensor
    centroids: Tensor

    @property
    def leaves(self) -> int:
        """Number of leaves."""
        return self.under.shape[1]

    def masks(self, grid: tuple[int, int]) -> Tensor:
        """Return the share (n, h * w) float32 of every cell of a grid that the nodes cover; labels must be a map."""
        return self.under.float() @ soft_masks(self.labels, grid, self.leaves).flatten(1)


def find_segments(features: Tensor, parts: int, threshold: float, half: bool = False) -> OverSegments:
    """Divide a feature map.

    Args:
        features: (C, a, b).
        parts: As in `ward_splits`.
        threshold: As in `over_segments`.
        half: Whether only half of the splits are looked at.
    """
    descriptors = F.normalize(features.flatten(1).mT.float(), dim=1)
    found = over_segments(descriptors, ward_splits(descriptors, parts), threshold, (parts + 1) // 2 if half else None)
    return replace(found, labels=found.labels.view(features.shape[1:]))


def soft_masks(labels: Tensor, grid: tuple[int, int], count: int) -> Tensor:
    """Return the share (L, h, w) float32 of every cell of a grid that the labels (a, b) int64 of L segments cover."""
    return F.adaptive_avg_pool2d(F.one_hot(labels, count).permute(2, 0, 1).float(), grid)


def ward_splits(descriptors: Tensor, parts: int) -> Splits:
    """Divide descriptors into parts: Ward's tree, of which the latest merge that is left is undone again and again.

    Args:
        descriptors: (N, C) float32 unit rows.
        parts: How many parts the last split leaves; fewer where there are fewer descriptors.
    """
    count = len(descriptors)
    parts = min(parts, count)
    owner = np.arange(count)  # the node that holds each descriptor; merges are numbered on
    masks, parents = np.zeros((2 * parts - 2, count), dtype=bool), [-1] * (parts - 1)
    splits: dict[int, int] = {}  # number of a merge: split that undoes it
    for merge, pair in enumerate(ward_merges(descriptors.double().cpu().numpy()), start=count):
        halves = owner == np.sort(owner[pair])[:, None]
        split = 2 * count - 2 - merge  # the last merge is undone first
        if split < parts - 1:
            for row, half in enumerate(halves, start=2 * split):
                masks[row] = half
                if (below := splits.get(int(owner[half][0]))) is not None:
                    parents[below] = row
            splits[merge] = split
        owner[halves.any(0)] = merge
    found = torch.from_numpy(masks).to(descriptors.device)
    means = F.normalize(_means(found, descriptors), dim=1)
    return Splits(found, tuple(parents), means @ means.mT)


def ward_merges(points: np.ndarray) -> np.ndarray:
    """Return the merges of Ward's clustering, nearest first, by chains of nearest neighbours.

    A merge is told by a point of either cluster. Time and memory are quadratic in the number of points.

    Args:
        points: (N, C) float64.

    Returns:
        (N - 1, 2) int64.
    """
    squares = np.square(points).sum(1)
    gaps = squares[:, None] + squares - 2 * points @ points.T  # squared distances, as Ward weighs them between clusters
    np.fill_diagonal(gaps, np.inf)
    sizes, chain = np.ones(len(points)), [0]
    merges: list[tuple[int, int]] = []
    heights: list[float] = []
    while len(merges) < len(points) - 1:
        last = chain[-1]
        near = int(gaps[last].argmin())
        if len(chain) < 2 or gaps[last, near] < gaps[last, chain[-2]]:
            chain.append(near)
            continue
        kept, gone = chain.pop(), chain.pop()  # each is the other's nearest
        merges.append((kept, gone))
        heights.append(float(gaps[kept, gone]))
        sums = (sizes + sizes[kept]) * gaps[kept] + (sizes + sizes[gone]) * gaps[gone] - sizes * heights[-1]
        gaps[kept] = gaps[:, kept] = sums / (sizes + sizes[kept] + sizes[gone])
        gaps[gone] = gaps[:, gone] = np.inf
        sizes[kept] += sizes[gone]
        chain = chain or [kept]
    return np.array(merges, dtype=np.int64).reshape(-1, 2)[np.argsort(heights, kind="stable")]


def over_segments(descriptors: Tensor, splits: Splits, threshold: float, used: int | None = None) -> OverSegments:
    """Keep the splits whose children differ, and give every descriptor to the nearest leaf.

    The first split is always kept, another one where its parent is a leaf and the cosine of its children is below the
    threshold. (The original then refines the distances to the leaves by a dense CRF.)

    Args:
        descriptors: (N, C) float32 unit rows.
        splits: Of these descriptors.
        threshold: Cosine; the larger, the more leaves.
        used: How many of the splits may be kept; None for all.
    """
    similar = splits.similarity.cpu()
    leaves = {-1: 0}  # row of the mask: tree id, in the order in which they were found
    for split, parent in list(enumerate(splits.parents))[:used]:
        first = 2 * split
        if parent in leaves and (split == 0 or float(similar[first, first + 1]) < threshold):
            node = leaves.pop(parent)
            leaves |= {first: 2 * node + 1, first + 1: 2 * node + 2}
    masks = splits.masks[list(leaves)] if len(leaves) > 1 else splits.masks.new_ones(1, len(descriptors))
    centroids = _means(masks, descriptors)
    return tree_above(list(leaves.values()), torch.cdist(descriptors, centroids).argmin(1), centroids)


def tree_above(tree_ids: list[int], labels: Tensor, centroids: Tensor) -> OverSegments:
    """Add the nodes above leaves, whose tree ids, labels (N,) and centroids (L, C) are known."""
    paths = [_path(leaf) for leaf in tree_ids]
    nodes = [*tree_ids, *sorted(set[int]().union(*paths).difference(tree_ids))]
    under = torch.tensor([[node in path for path in paths] for node in nodes], device=labels.device)
    return OverSegments(nodes, under, labels, centroids)


def _path(node: int) -> set[int]:
    """Return a node and all above it."""
    found = {node}
    while node:
        node = (node - 1) // 2
        found.add(node)
    return found


def _means(masks: Tensor, descriptors: Tensor) -> Tensor:
    """Return the mean descriptors (M, C) of masks (M, N)."""
    weights = masks.to(descriptors.dtype)
    return weights @ descriptors / weights.sum(1, keepdim=True)
