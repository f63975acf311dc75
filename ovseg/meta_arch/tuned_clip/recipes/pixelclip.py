"""PixelCLIP: masks without names are grouped on-line under learnable words, and the student must find each group."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovseg.clip import Context, Tower
from ovseg.clip.normalise import normalise
from ovseg.clip.prompted import PromptedSentence
from ovseg.data.strong_views import cut_out, other_colours
from ovseg.errors import ConfigError, InputError, at_least, one_of
from ovseg.guides import Guide, build_guide
from ovseg.losses.cluster_head import MapHead
from ovseg.losses.clusters import cluster_loss, group_tokens, merged_targets, pool_masks, shrink_masks, sinkhorn
from ovseg.meta_arch.tuned_clip.recipe import RECIPE_REGISTRY, Recipe, Sample
from ovseg.recalibration.pixelclip import PixelCLIP as Method

if TYPE_CHECKING:
    from ovseg.contract import Words

LABELS = "labels"
TUNED = ("attention", "visual")


@RECIPE_REGISTRY.register()
class PixelCLIP(Recipe):
    """Masks without names (Shin et al., NeurIPS 2024, arXiv 2409.19846; github.com/cvlab-kaist/PixelCLIP)."""

    def __init__(
        self,
        *,
        masks: str = LABELS,
        groups: int = 16,
        clusters: int = 64,
        prompt: int = 4,
        sentence: str = "A photo of a {} in the scene",
        sharpness: float = 100.0,
        momentum: float = 0.999,
        iterations: int = 3,
        side: int = 320,
        mask_side: int = 256,
        finer: bool = True,
        strong: bool = True,
        tuned: str = "attention",
        **common: Any,
    ) -> None:
        """Set the options; defaults are those of the authors' ViT-B/16 on masks of SA-1B.

        Args:
            masks: ``labels``, the masks of the data set without their names; else a guide (`ovseg.guides`) whose
                features are grouped in each image.
            groups: So many groups of features are there in an image.
            clusters: So many sentences are learnt.
            prompt: Each has so many learnable words.
            sentence: They stand in the place of the braces.
            sharpness: Factor of cosines before the softmax over clusters.
            momentum: Of the slow copy that sees the masks.
            iterations: See `ovseg.losses.clusters.sinkhorn`.
            side: Of the square that CLIP sees, in pixels.
            mask_side: Of the square on which masks are compared.
            finer: Whether a small network makes finer maps of the cosines, as in the original; else two learnable
                numbers bring cosines to logits, which needs far fewer steps.
            strong: Whether the student sees other colours and a hole.
            tuned: ``attention`` and position embeddings of the image tower, or all of it (``visual``).
            common: Options of `Recipe`.

        Raises:
            ConfigError: A value is not allowed.
        """
        super().__init__(**common)
        self.masks, self.groups = masks, int(at_least("groups", groups, 2))
        self.clusters, self.prompt = int(at_least("clusters", clusters, 2)), int(at_least("prompt", prompt, 1))
        self.sentence, self.sharpness, self.momentum = sentence, sharpness, at_least("momentum", momentum, 0.0)
        self.iterations, self.side = int(at_least("iterations", iterations, 0)), int(at_least("side", side, 1))
        self.mask_side = (int(at_least("mask_side", mask_side, 1)),) * 2
        self.finer, self.strong, self.tuned = finer, strong, one_of("tuned", tuned, TUNED)
        self.prompted: PromptedSentence | None = None
        self.method = Method()
        self._guides: tuple[Guide, ...] = ()  # in tuples they are no part of the recipe's weights
        self._slow: tuple[Any, ...] = ()

    def parameters_of(self, clip: Tower) -> Iterable[nn.Parameter]:
        """Return those of the image tower, or of its attention and positions."""
        for name, weight in clip.model.named_parameters():  # type: ignore[attr-defined]
            inside = self.tuned == "visual" or "attn" in name or "position" in name or "pos_embed" in name
            if name.startswith("visual.") and inside:
                yield weight

    def begin(self, clip: Tower) -> None:
        """Make the learnable words, the slow copy, and what brings cosines to logits.

        Raises:
            ConfigError: The method cannot run on the CLIP, or its text tower is of another kind.
        """
        self.method.check_tower(clip)
        self.prompted = PromptedSentence(clip, self.sentence, self.prompt, self.clusters)
        self.head = MapHead() if self.finer else Scaled()
        # Buffers, so that a training that was killed goes on from them: nothing else says what the copy has become.
        for name, weight in clip.model.visual.named_parameters():  # type: ignore[attr-defined]
            self.register_buffer(_slow_name(name), weight.detach().clone())

    def start(self, student: Tower, original: Tower, words: Words) -> None:
        """Make a CLIP of the slow weights, and load the guide."""
        slow: Any = copy.deepcopy(original)
        self.to(slow.device)
        for name, weight in slow.model.visual.named_parameters():
            weight.data = self.get_buffer(_slow_name(name))
        self._slow = (slow,)
        self._guides = () if self.masks == LABELS else (build_guide(self.masks).to(slow.device),)

    def losses(self, student: Tower, original: Tower, batch: Sequence[Sample], words: Words) -> dict[str, Tensor]:
        """Return the loss of all groups of masks of a batch.

        Raises:
            ConfigError: No training has begun.
            InputError: The images are of different sizes, or have no masks.
        """
        if self.prompted is None or not self._slow:
            raise ConfigError("PixelCLIP has no slow copy outside of a training; call start_training(words) first")
        images, masks = _batch(batch, student)
        (slow,) = self._slow
        with torch.no_grad():
            seen = slow.dense(self._square(student, images), self.method)
            own = self._grouped(seen.context, images) if self._guides else masks
            view, own = cut_out(other_colours(images), own) if self.strong else (images, own)
            own = [shrink_masks(one, self.mask_side) for one in own]
        if not sum(len(one) for one in own):
            raise InputError("a batch has no masks; expected images with masks, or the option masks to name a guide")
        centres = F.normalize(self.prompted(student.model), dim=-1)  # type: ignore[attr-defined]
        chosen = self._choose(seen.features, own, centres)
        dense = student.dense(self._square(student, view), self.method)
        cosines = torch.einsum("bdhw,kd->bkhw", F.normalize(dense.features.float(), dim=1), centres)
        return {"loss_masks": cluster_loss(self.head(cosines), merged_targets(own, chosen, self.clusters))}

    def after_step(self, student: Tower, step: int, steps: int) -> None:
        """Let the slow copy follow; the original does so before the next step, which is the same."""
        (slow,) = self._slow
        for name, weight in slow.model.visual.named_parameters():
            weight.data = self.get_buffer(_slow_name(name))  # a checkpoint may have been read into it
        Method.follow(slow, student, self.momentum)

    def _square(self, clip: Tower, images: Tensor) -> Tensor:
        """Return the normalised squares that a CLIP sees of images (B, 3, h, w) in 0..1."""
        sized = F.interpolate(images, (self.side, self.side), mode="bilinear", align_corners=False, antialias=True)
        return normalise(sized.clamp(0, 1), clip.mean, clip.std)

    @torch.no_grad()
    def _choose(self, features: Tensor, masks: Sequence[Tensor], centres: Tensor) -> Tensor:
        """Return the cluster (N,) of all masks of a batch, by what the slow copy sees in them."""
        maps = F.interpolate(features.float(), self.mask_side, mode="bilinear", align_corners=False)
        pooled = torch.cat([pool_masks(*both) for both in zip(maps, masks, strict=True)])
        logits = self.sharpness * F.normalize(pooled, dim=-1) @ centres.T.float()
        return sinkhorn(logits, self.iterations).argmax(-1)

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


def _batch(batch: Sequence[Sample], clip: Tower) -> tuple[Tensor, list[Tensor]]:
    """Return the images (B, 3, h, w) in 0..1 and the masks (n, h, w) of samples of one size.

    Raises:
        InputError: They are of different sizes.
    """
    shapes = sorted({tuple(sample["image"].shape[1:]) for sample in batch})
    if len(shapes) > 1:
        raise InputError(f"got images of {shapes[0]} and {shapes[1]}; set INPUT.CROP to an absolute size they all have")
    device: Any = clip.device  # type: ignore[attr-defined]
    images = torch.stack([sample["image"] for sample in batch]).to(device).float() / 255
    return images, [sample["instances"].gt_masks.to(device) for sample in batch]


def _slow_name(name: str) -> str:
    """Return the name of the buffer that a weight of the slow copy is."""
    return f"slow_{name.replace('.', '_')}"
