"""SegEarth-OV: three self-attentions in the last block, features upsampled along the image, less of the whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg.clip.features import Context, DenseFeatures, Kept
from ovseg.clip.tokens import TokenTower
from ovseg.errors import ConfigError
from ovseg.recalibration.base import RECALIBRATION_REGISTRY, Recalibration, attend
from ovseg.recalibration.segearth_ov.upsamplers import FACTOR, Upsampler, load_upsampler

if TYPE_CHECKING:
    from ovseg.contract import Answer, Words
    from ovseg.labelling.shares import ClassShares


@dataclass(frozen=True)
class Lengths(Kept):
    """Lengths (B, 1, H, W) of the upsampled features, which no one keeps themselves."""

    of_pixels: Tensor


@RECALIBRATION_REGISTRY.register()
class SegEarth_OV(Recalibration):
    """SegEarth-OV (Li et al., CVPR 2025; github.com/likyoo/SegEarth-OV), for images from above.

    With an upsampler scores come at the size of the window, without one on the grid of the patches.
    """

    residual, feed_forward, attention_only = False, False, False

    def __init__(self, *, upsampler: str | Upsampler = "", global_weight: float = -0.3, **common: Any) -> None:
        """Set what sharpens features, and what of the whole is in the scores.

        Args:
            upsampler: File of one, see `load_upsampler`; empty resizes the scores of patches.
            global_weight: Factor of the cosine of word and whole window that is added; below 0 it is taken away, which
                weakens what a window shows everywhere.
            common: Options of `Recalibration`; the original's ``ignore_residual=False`` is ``residual=True,
                feed_forward=True``.
        """
        super().__init__(**common)
        self.global_weight = global_weight
        self.sharpener = load_upsampler(upsampler) if upsampler else None
        self.upsampler = self.sharpener.name if self.sharpener is not None else ""
        if self.sharpener is not None:
            self.not_exported = "scores are upsampled along the image (upsampler)"

    def check_tower(self, tower: TokenTower) -> None:
        """Refuse towers that the upsampler was not made for; see `Recalibration.check_tower`."""
        if self.sharpener is not None and (tower.patch_size, tower.embed_dim) != (FACTOR, self.sharpener.channels):
            raise ConfigError(
                f"the upsampler {self.upsampler} is for patches of {FACTOR} pixels and {self.sharpener.channels} "
                f"channels, and {tower.name} has {tower.patch_size} and {tower.embed_dim}; take another CLIP, or "
                "set UPSAMPLER ''"
            )

    def attention(self, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
        """Mix values by query-query, key-key and value-value attention; weights sum to 3."""
        return attend(q, q, v) + attend(k, k, v) + attend(v, v, v)

    def weights(self, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
        """Return the sum of the three maps (B, heads, N, N)."""
        return torch.stack([(one @ one.mT * one.shape[-1] ** -0.5).softmax(-1) for one in (q, k, v)]).sum(0)

    def joint(self, tokens: Tensor, context: Context) -> DenseFeatures:
        """Bring the tokens to the joint space, and measure how long the upsampled features are."""
        dense = super().joint(tokens, context)
        if self.sharpener is not None:
            with torch.autocast(tokens.device.type, enabled=False):
                # One by one: the kernels and maps of a window take a hundred times the room of its features.
                each = [dense.rows(slice(index, index + 1)) for index in range(len(dense.features))]
                context.keep(Lengths(torch.cat([self._lengths(self.sharpener, one) for one in each])))
        return dense

    def _lengths(self, sharpener: Upsampler, dense: DenseFeatures) -> Tensor:
        """Return the lengths (B, 1, H, W) of the upsampled features, without making these."""
        features, bias = sharpener.mixed(dense.features.float())
        # Vectors of the same products and of no more channels than there are patches.
        short = torch.linalg.qr(features.flatten(2), mode="r").R.unflatten(2, dense.grid)
        along = (bias @ features.flatten(2)).unflatten(1, dense.grid)[:, None]
        found = sharpener.spread(torch.cat([short, along], dim=1), self._kernels(sharpener, dense))
        squares = found[:, :-1].square_().sum(1, keepdim=True) + 2 * found[:, -1:] + bias.square().sum()
        return squares.clamp(min=0).sqrt()

    @property
    def finer(self) -> int:
        """With an upsampler scores are those of pixels; see `Recalibration.finer`."""
        return FACTOR if self.sharpener is not None else 1

    def patch_scores(self, dense: DenseFeatures, words: Words) -> Tensor:
        """Return the cosines of patches, or pixels, and words (B, T, H, W), plus a share of those with the window."""
        return self._scores(dense, words.rows(dense.cls).to(dense.features.device, torch.float32))

    def some_scores(self, dense: DenseFeatures, words: Words, queries: Tensor) -> Tensor:
        """Return the scores (B, t, H, W) of some queries; see `patch_scores`."""
        rows = words.rows(dense.cls).to(dense.features.device, torch.float32)
        return self._scores(dense, rows[..., queries.to(rows.device), :])

    def _scores(self, dense: DenseFeatures, rows: Tensor) -> Tensor:
        whole = F.normalize(dense.cls.float(), dim=-1)
        fits = self.global_weight * (rows @ whole[..., None])[..., 0]
        cosines = dense.cosines(rows) if self.sharpener is None else self._sharp(self.sharpener, dense, rows)
        return cosines.add_(fits[..., None, None])

    def finish(self, dense: DenseFeatures, answer: Answer, shares: Callable[[], ClassShares]) -> Answer:
        """Say where windows were too small for the upsampler; see `Recalibration.finish`."""
        note = self.sharpener.remark(dense.grid) if self.sharpener is not None else ""
        return replace(answer, notes=(*answer.notes, note)) if note else answer

    def _sharp(self, sharpener: Upsampler, dense: DenseFeatures, rows: Tensor) -> Tensor:
        """Return the cosines (B, T, H, W) of upsampled features and rows."""
        features, bias = sharpener.mixed(dense.features.float())
        products = (rows @ features.flatten(2)).unflatten(2, dense.grid)
        found = sharpener.spread(products, self._kernels(sharpener, dense)).add_((rows @ bias)[..., None, None])
        return found.div_(dense.context.kept(Lengths).of_pixels.clamp(min=1e-12))

    @staticmethod
    def _kernels(sharpener: Upsampler, dense: DenseFeatures) -> list[Tensor]:
        """Return the weights of each step of upsampling, by the part of the image that patches cover."""
        height, width = dense.grid
        return sharpener.kernels(dense.context.images[..., : height * FACTOR, : width * FACTOR].float(), dense.grid)
