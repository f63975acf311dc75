"""PixelCLIP: masks without names are grouped on-line under learnable words, and the student must find each group."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn

from ovseg.checkpoint.pixelclip import OFFICIAL
from ovseg.clip import Context, Tower
from ovseg.clip.prompted import PromptedSentence
from ovseg.errors import ConfigError, at_least
from ovseg.guides import Guide, build_guide
from ovseg.losses.cluster_head import MapHead
from ovseg.losses.clusters import (
    cluster_loss,
    group_tokens,
    merged_targets,
    pool_masks,
    shrink_masks,
    sinkhorn,
)
from ovseg.meta_arch.pixelclip.views import cut_out, other_colours
from ovseg.meta_arch.taught_clip import Lesson, TaughtClip, student_view
from ovseg.recalibration.pixelclip import PixelCLIP


class PixelCLIPLesson(Lesson):
    """Teaches by masks; see the module."""

    def __init__(
        self,
        *,
        masks: str = "labels",
        groups: int = 16,
        clusters: int = 64,
        words: int = 4,
        sentence: str = "A photo of a {} in the scene",
        sharpness: float = 100.0,
        momentum: float = 0.999,
        sinkhorn_steps: int = 3,
        side: int = 320,
        mask_side: int = 256,
        finer: bool = True,
        strong: bool = True,
    ) -> None:
        """Set the options; defaults are those of the authors' ViT-B/16 on masks of SA-1B.

        Args:
            masks: ``labels``, the masks of the data set without their names; else a guide (`ovseg.guides`) whose
                features are grouped in each image.
            groups: So many groups of features are there in an image.
            clusters: So many sentences are learnt.
            words: Each has so many learnable words.
            sentence: They stand in the place of the braces.
            sharpness: Factor of cosines before the softmax over clusters.
            momentum: Of the slow copy that sees the masks.
            sinkhorn_steps: See `ovseg.losses.clusters.sinkhorn`.
            side: Of the square that CLIP sees, in pixels.
            mask_side: Of the square on which masks are compared.
            finer: Whether a small network makes finer maps of the cosines, as in the original; else two learnable
                numbers bring cosines to logits, which needs far fewer steps.
            strong: Whether the student sees other colours and a hole.
        """
        super().__init__()
        self.masks, self.groups, self.clusters = masks, at_least("groups", groups, 2), at_least("clusters", clusters, 2)
        self.words, self.sentence = at_least("words", words, 1), sentence
        self.sharpness, self.momentum, self.steps = sharpness, momentum, at_least("sinkhorn_steps", sinkhorn_steps, 0)
        self.side, self.mask_side = at_least("side", side, 1), (at_least("mask_side", mask_side, 1),) * 2
        self.finer, self.strong, self.method = finer, strong, PixelCLIP(grid=0)
        self._guides: list[Guide] = []  # a list, for they are no part of what is trained or stored

    def begin(self, clip: Tower) -> None:
        """Make the learnable words, the slow copy and what brings cosines to logits.

        Raises:
            ConfigError: The CLIP has a text tower of another kind.
        """
        self.prompted = PromptedSentence(clip, self.sentence, self.words, self.clusters)
        self.slow = self.frozen_copy(clip)
        self.head = MapHead() if self.finer else Scaled()
        if self.masks != "labels":
            self._guides = [build_guide(self.masks).to(clip.device)]

    def losses(self, clip: Tower, images: Tensor, masks: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return the loss ``masks``."""
        PixelCLIP.follow(self.slow, clip, self.momentum)
        with torch.no_grad():
            seen = self.slow.dense(student_view(clip, images, self.side), self.method)
            own = self._grouped(seen.context, images) if self._guides else list(masks)
            view, own = cut_out(other_colours(images), own) if self.strong else (images, own)
            own = [shrink_masks(one, self.mask_side) for one in own]
        if not sum(len(one) for one in own):
            raise ConfigError("a batch has no masks; expected images with masks, or MASKS to name a guide")
        centres = F.normalize(self.prompted(clip.model), dim=-1)
        chosen = self._choose(seen.features, own, centres)
        dense = clip.dense(student_view(clip, view, self.side), self.method)
        cosines = torch.einsum("bdhw,kd->bkhw", F.normalize(dense.features, dim=1), centres)
        return {"masks": cluster_loss(self.head(cosines), merged_targets(own, chosen, self.clusters))}

    @torch.no_grad()
    def _choose(self, features: Tensor, masks: Sequence[Tensor], centres: Tensor) -> Tensor:
        """Return the cluster (N,) of all masks of a batch, by what the slow copy sees in them."""
        maps = F.interpolate(features.float(), self.mask_side, mode="bilinear", align_corners=False)
        pooled = torch.cat([pool_masks(*both) for both in zip(maps, masks, strict=True)])
        logits = self.sharpness * F.normalize(pooled, dim=-1) @ centres.T.float()
        return sinkhorn(logits, self.steps).argmax(-1)

    def _grouped(self, context: Context, images: Tensor) -> list[Tensor]:
        """Return the groups of each image as masks (n, h, w) bool at its size."""
        features = self._guides[0](context).float()
        groups = group_tokens(features.flatten(2).mT, self.groups).unflatten(1, features.shape[2:])
        full = F.interpolate(groups[:, None].float(), images.shape[2:], mode="nearest")[:, 0].long()
        return [F.one_hot(one).permute(2, 0, 1).bool() for one in full]


class Scaled(nn.Module):
    """Brings cosines to logits by a factor and an offset that are learnt."""

    def __init__(self) -> None:
        """Start where a cosine of 0.3 is even odds."""
        super().__init__()
        self.factor, self.offset = nn.Parameter(torch.tensor(20.0)), nn.Parameter(torch.tensor(-6.0))

    def forward(self, cosines: Tensor) -> Tensor:
        """Return logits of the same shape (B, K, h, w)."""
        return self.factor * cosines + self.offset


@META_ARCH_REGISTRY.register()
class TunedPixelCLIP(TaughtClip):
    """PixelCLIP (Shin et al., NeurIPS 2024, arXiv 2409.19846; github.com/cvlab-kaist/PixelCLIP)."""

    made_of = {"lesson": PixelCLIPLesson}  # noqa: RUF012
    official = OFFICIAL
