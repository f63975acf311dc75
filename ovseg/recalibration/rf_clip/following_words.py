"""Words that follow the image: in every group of like texts, the one that fits best leans towards its patches."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def groups(rows: Tensor, distance: float) -> Tensor:
    """Group texts by complete linkage of their cosine distances.

    Args:
        rows: Embeddings (T, D).
        distance: Largest distance (1 - cosine) inside of a group.

    Returns:
        Group (T,) int64 of each text on the device of the rows, from 0 on, numbered as scipy does.
    """
    from scipy.cluster.hierarchy import fcluster, linkage  # the first import takes a tenth of a second
    from scipy.spatial.distance import squareform

    if len(rows) < 2:
        return torch.zeros(len(rows), dtype=torch.long, device=rows.device)
    unit = F.normalize(rows.float(), dim=-1).cpu()
    apart = squareform((1 - unit @ unit.mT).clamp_(0, 2).numpy(), checks=False)
    found = fcluster(linkage(apart, "complete"), distance, "distance")
    return torch.from_numpy(found).long().to(rows.device) - 1


def lean(rows: Tensor, fits: Tensor, members: Tensor, patches: Tensor, weight: float) -> Tensor:
    """Move the best text of each group towards the mean of the two patches that are nearest to it.

    Args:
        rows: Texts (B, T, D).
        fits: How well each text fits the whole image, (B, T).
        members: Group (T,) of each text.
        patches: Unit features (B, N, D).
        weight: Share of the patches in 0..1.

    Returns:
        Texts (B, T, D) of the lengths that they had.
    """
    batch, count = fits.shape
    own, places = members.expand(batch, -1), torch.arange(count, device=rows.device).expand(batch, -1)
    best = fits.new_full((batch, int(members.max()) + 1), -torch.inf).scatter_reduce(1, own, fits, "amax")
    first = places.where(fits == best.gather(1, own), count)  # of equal ones the first
    chosen = torch.full_like(best, count, dtype=torch.long).scatter_reduce(1, own, first, "amin")[..., None]
    texts = rows.gather(1, chosen.expand(-1, -1, rows.shape[2]))
    nearest = (texts @ patches.mT).topk(min(2, patches.shape[1]), dim=-1).indices
    seen = torch.stack([one[places] for one, places in zip(patches, nearest, strict=True)]).mean(2)
    moved = F.normalize((1 - weight) * texts + weight * F.normalize(seen, dim=-1), dim=-1)
    return rows.scatter(1, chosen.expand_as(texts), moved * texts.norm(dim=-1, keepdim=True))
