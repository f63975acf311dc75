"""CLIPtrase: self-self attention in the last block, and regions from how patches correlate in the block before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg.clip.features import Context, DenseFeatures, Kept
from ovseg.clip.tokens import CLASS_TOKEN, Block, TokenTower
from ovseg.errors import at_least
from ovseg.recalibration.base import RECALIBRATION_REGISTRY, Recalibration, attend
from ovseg.recalibration.cliptrase.clustering import soft_regions

if TYPE_CHECKING:
    from ovseg.contract import Words


@dataclass(frozen=True)
class Affinity(Kept):
    """How patches correlate: (B, h * w, h * w) float32, 0 or more."""

    of_patches: Tensor


@RECALIBRATION_REGISTRY.register()
class CLIPtrase(Recalibration):
    """Trace back CLIP's local features by self-correlation (Shao et al., ECCV 2024; github.com/leaves162/CLIPtrase).

    Its regions relabel pixels where the protocol's ``REGION_RULE`` is ``vote``, or ``mean`` as in the authors' port to
    Detectron2, which also leaves features at their length.
    """

    blocks = 2
    whole_image = True
    requires = Recalibration.requires | {CLASS_TOKEN}  # which says what all patches share

    def __init__(
        self,
        *,
        eps: float | None = None,
        min_samples: int | None = None,
        cls_modulation: bool = False,
        normalise: bool = True,
        **common: Any,
    ) -> None:
        """Set the clustering and the scores.

        Args:
            eps: Rows of the affinity no farther apart are neighbours; None goes by the number of patches, on the power
                law through the two published settings, 0.7 for 14 x 14 patches and 1.1 for 21 x 21.
            min_samples: Neighbours that make a core of a cluster; None likewise: 3 for 14 x 14 patches, 7 for 21 x 21.
            cls_modulation: Whether scores are multiplied with those of the whole image (published for VOC20).
            normalise: Whether features come to unit length before they meet the texts.
            common: Options of `Recalibration`; they act in the last block.
        """
        super().__init__(**common)
        self.eps = eps if eps is None else at_least("eps", eps, 0.0)
        self.min_samples = min_samples if min_samples is None else at_least("min_samples", min_samples, 1)
        self.cls_modulation, self.normalise = cls_modulation, normalise

    def run(self, tokens: Tensor, blocks: Sequence[Block], context: Context) -> Tensor:
        """Keep the affinity (B, N, N) of the patches in the first block; mix by three self-attentions in the last."""
        before, last = blocks
        context.keep(Affinity(denoise(context.tower, self_correlation(*before.qkv(tokens)))))
        tokens = before(tokens)
        attended = last.project(self_self(*last.qkv(tokens)))
        tokens = tokens + attended if self.residual else attended
        return tokens + last.feed_forward(tokens) if self.feed_forward else tokens

    def patch_scores(self, dense: DenseFeatures, words: Words) -> Tensor:
        """Return cosines or plain products (B, T, h, w), times those of the whole image if so chosen."""
        texts = words.rows(dense.cls).to(dense.cls.device, torch.float32)
        plain = (texts @ dense.features.float().flatten(2)).unflatten(2, dense.grid)
        scores = dense.cosines(texts) if self.normalise else plain
        cls = F.normalize(dense.cls.float(), dim=1) if self.normalise else dense.cls.float()
        return scores * (texts @ cls[..., None])[..., None] if self.cls_modulation else scores

    def region_maps(self, dense: DenseFeatures, words: Words) -> list[Tensor]:
        """Return soft maps (R, 4 * h, 4 * w) of the clusters in each affinity; none where all patches are noise."""
        patches = dense.grid[0] * dense.grid[1] / 14**2
        eps = 0.7 * patches**0.5574 if self.eps is None else self.eps
        least = max(1, round(3 * patches**1.0449)) if self.min_samples is None else self.min_samples
        affinities = dense.context.kept(Affinity).of_patches
        return [soft_regions(affinity, dense.grid, eps, least) for affinity in affinities]


def self_self(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Sum what q-q, k-k and v-v attention make of the values; all (B, heads, N, d)."""
    return attend(q, q, v) + attend(k, k, v) + attend(v, v, v)


def self_correlation(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return the mean cosine (B, N, N) over heads and over q-q, k-k and v-v, of (B, heads, N, d), in float32."""
    units = torch.cat([F.normalize(z.float(), dim=-1, eps=1e-8) for z in (q, k, v)], dim=1)
    joined = units.transpose(1, 2).flatten(2)
    return joined @ joined.mT / units.shape[1]


def denoise(tower: TokenTower, correlation: Tensor) -> Tensor:
    """Take from every patch what the class token sees of it, in (B, N, N) of all tokens; nothing falls below 0."""
    with_patches = tower.split(correlation.mT)[1].mT
    return (tower.split(with_patches)[1] - tower.class_and_rest(with_patches)[0]).clamp(min=0)
