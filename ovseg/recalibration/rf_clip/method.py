"""RF-CLIP: sink tokens are smoothed, like patches gather, and the last block mixes by the keys of all blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg.clip.features import Context, DenseFeatures, Kept
from ovseg.clip.tokens import Block, TokenTower
from ovseg.clip.tower import Tower
from ovseg.errors import at_least, one_of, within
from ovseg.guides.base import unit_patches
from ovseg.recalibration.base import RECALIBRATION_REGISTRY, Recalibration
from ovseg.recalibration.rf_clip import stream
from ovseg.recalibration.rf_clip.following_words import groups, lean
from ovseg.recalibration.rf_clip.sink_tokens import unknown_channels
from ovseg.recalibration.rf_clip.stream import Sinks

if TYPE_CHECKING:
    from ovseg.contract import Words


@dataclass(frozen=True)
class Whole(Kept):
    """Embedding (B, D) of the whole image, by the blocks as they are but for the sinks."""

    embedding: Tensor


@dataclass(frozen=True)
class Groups:
    """Group (T,) int64 of each word; see `ovseg.recalibration.rf_clip.following_words.groups`."""

    members: Tensor


@RECALIBRATION_REGISTRY.register()
class RF_CLIP(Recalibration):
    """RF-CLIP (AAAI 2026, arXiv 2511.16170) as its public code has it; github.com/liblacklucy/RF-CLIP."""

    residual, feed_forward, attention_only = False, False, False
    not_exported = "words are grouped, and lean towards the patches of each image"

    def __init__(
        self,
        *,
        sink_channels: tuple[int, ...] | None = None,
        sigma: float = 5.0,
        alpha: float = 0.4,
        likeness: float = 0.4,
        refocus: bool = False,
        global_weight: float = 0.25,
        global_of: str = "image",
        patch_weight: float = 0.04,
        group_distance: float = 0.1,
        **common: Any,
    ) -> None:
        """Set how sinks are told, and how words follow the image.

        Args:
            sink_channels: By which sinks are told, see `sink_tokens`; empty smooths none. None takes those that are
                known of the CLIP; a note says where none are.
            sigma: How far a channel of a sink stands out.
            alpha: Share of its neighbours in a smoothed sink.
            likeness: Patches gather what is at least as near to them, as a cosine.
            refocus: Take attention from sinks, which the paper describes and its code leaves off.
            global_weight: Share of the whole image in the scores.
            global_of: What the whole is: the ``image`` or each ``window`` (the authors' Cityscapes).
            patch_weight: Share of patches in the words that lean towards them.
            group_distance: Largest cosine distance of the words of a group, of which one leans.
            common: Options of `Recalibration`.
        """
        super().__init__(**common)
        self.sink_channels = sink_channels if sink_channels is None else tuple(sink_channels)
        self.sigma, self.alpha, self.refocus = at_least("sigma", sigma, 0.0), within("alpha", alpha, 0, 1), refocus
        self.likeness = within("likeness", likeness, -1, 1)
        self.global_weight = within("global_weight", global_weight, 0, 1)
        self.patch_weight = within("patch_weight", patch_weight, 0, 1)
        self.global_of = one_of("global_of", global_of, ("image", "window"))
        self.group_distance = at_least("group_distance", group_distance, 0.0)

    def sinks(self, tower: TokenTower) -> Sinks:
        """Return how sinks of a tower are told, and what is done to them; see `Sinks.on`."""
        return Sinks(self.sink_channels, self.sigma, self.alpha, self.refocus).on(tower)

    def check_tower(self, tower: TokenTower) -> None:
        """Refuse towers without the channels by which sinks are told; see `Recalibration.check_tower`."""
        self.sinks(tower)

    def remarks(self, tower: TokenTower) -> tuple[str, ...]:
        """Say that no sink is smoothed where nobody knows by which channels to tell them."""
        known = self.sinks(tower).channels or self.sink_channels is not None
        return () if known else (unknown_channels(tower),)

    def blocks_of(self, depth: int) -> int:
        """Take all blocks over."""
        return depth

    def overview(self, clip: Tower, images: Tensor) -> Whole | None:
        """Embed whole images, whose windows share what they show."""
        return Whole(self.encode(clip, images).cls) if self.global_of == "image" else None

    def run(self, tokens: Tensor, blocks: Sequence[Block], context: Context) -> Tensor:
        """Return the patches (B, M, C) of the last block, which runs on the stream and on the mean of all streams."""
        whole = self.residual, self.feed_forward
        patches, leaving = stream.through(tokens, blocks, context, self.sinks(context.tower), self.likeness, whole)
        context.keep(Whole(context.tower.head(leaving)[1]))
        return patches

    def joint(self, tokens: Tensor, context: Context) -> DenseFeatures:
        """Bring the patches to the joint space; the image is embedded as it left the last block of CLIP."""
        features = context.tower.patches_to_joint(tokens).mT.unflatten(-1, context.grid)
        return DenseFeatures(features, context.take(Whole).embedding, context.grid, context)

    def of_words(self, clip: TokenTower, words: Words) -> Groups:
        """Group the words, of which there may be thousands."""
        return Groups(groups(words.embeddings, self.group_distance))

    def patch_scores(self, dense: DenseFeatures, words: Words) -> Tensor:
        """Return cosines (B, T, h, w) with words that lean towards the image, and a share of those with the whole."""
        rows = words.rows(dense.cls).to(dense.features.device, torch.float32).expand(len(dense.features), -1, -1)
        known = words.found if isinstance(words.found, Groups) else self.of_words(dense.context.tower, words)
        fits, members = self.fits(dense, rows), known.members.to(rows.device)
        rows = lean(rows, fits, members, unit_patches(dense.features), self.patch_weight)
        return (1 - self.global_weight) * dense.cosines(rows) + self.global_weight * fits[..., None, None]

    def fits(self, dense: DenseFeatures, rows: Tensor) -> Tensor:
        """Return the cosines (B, T) of the whole images and texts (B, T, D)."""
        whole = dense.context.kept(Whole, Whole(dense.cls)).embedding
        return (rows @ F.normalize(whole.float(), dim=-1)[..., None])[..., 0]
