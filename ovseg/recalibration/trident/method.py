"""Trident: what windows show is spliced, mixed by SAM's attention, named once, and redrawn by SAM on request."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ovseg.clip.features import Context, DenseFeatures, Kept, Need
from ovseg.clip.tower import Tower
from ovseg.errors import ConfigError, at_least
from ovseg.guides import Guide, build_guide
from ovseg.guides.sam import Apart, load_named_sam
from ovseg.guides.sam_image import SamImage
from ovseg.recalibration.base import RECALIBRATION_REGISTRY, Recalibration
from ovseg.recalibration.trident import splicing
from ovseg.recalibration.trident.region_prompts import Prompting, redrawn
from ovseg.recalibration.trident.sam_mixing import Sight, mix, see, whole_patches

if TYPE_CHECKING:
    from ovseg.contract import Answer
    from ovseg.labelling.shares import ClassShares


class Sights(Kept):
    """What SAM's encoder gave for each photograph, for its decoder; None where that is not asked."""

    def __init__(self, images: list[SamImage | None]) -> None:
        self.images = images


@RECALIBRATION_REGISTRY.register()
class Trident(Recalibration):
    """Trident (Shi et al., ICCV 2025; github.com/YuHengsss/Trident); the paper's guide is DINO ViT-B/16.

    Args:
        guide: By whose likeness CLIP's values are mixed in each window, as in ProxyCLIP; see `ovseg.guides`.
        sam: ``TYPE@FILE``, such as ``vit_b@sam_vit_b_01ec64.pth``, or a SAM; empty mixes nothing across windows.
        windows: Side and step in pixels; none shows the image at once. (The original pads each window evenly to a
            multiple of 56, as the published sides are; here windows of other sides are taken as they are.)
        beta: Pairs of patches count whose cosine is at least so many times the mean of all windows,
        gamma: with this inverse temperature.
        pair_factor: The same for cells of SAM, see `correlation`,
        keep_negative: and whether bounds below 0 stay there.
        halves: Show SAM the left and the right half apart (the authors' Cityscapes); to redraw, it sees the whole, too.
        refine: Whether SAM redraws the regions of the result,
        coarse_threshold: those where a class is at least so likely,
        least_area: of at least so many pixels at half the size,
        mask_factor: with the probabilities times this as its mask prompt,
        least_quality: and keeps masks that it takes to be better than this.
        mask_prompt: The ``original`` gives SAM's encoder of prompts no batch axis, so that its two norms run over rows
            and not over channels; the published numbers with refinement have it.
        common: Options of `Recalibration`.
    """

    residual, feed_forward, attention_only = False, False, False
    whole_image = True
    not_compiled = "the number of windows depends on the image, and SAM looks at the photograph"

    def __init__(
        self,
        *,
        guide: str | Guide = "clip",
        sam: str | torch.nn.Module = "",
        windows: tuple[int, ...] = (),
        beta: float = 1.2,
        gamma: float = 3.0,
        pair_factor: float = 1.2,
        keep_negative: bool = True,
        halves: bool = False,
        refine: bool = False,
        coarse_threshold: float = 0.2,
        least_area: int = 225,
        mask_factor: float = 0.005,
        least_quality: float = 0.8,
        mask_prompt: str = "corrected",
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.guide = build_guide(guide)
        self.guide_name, self.windows = self.guide.name, splicing.check_windows(windows)
        self.beta, self.gamma = at_least("beta", beta, 0.0), at_least("gamma", gamma, 0.0)
        self.pair_factor, self.keep_negative = at_least("pair_factor", pair_factor, 0.0), keep_negative
        self.halves = halves
        self.prompting = Prompting(coarse_threshold, least_area, mask_factor, least_quality, mask_prompt)
        if refine and not sam:
            raise ConfigError("refine is on but there is no SAM; give sam as TYPE@FILE, or leave refine out")
        self.refine = refine
        self.refined_by = list(astuple(self.prompting)) if refine else []
        self._sam = Apart(load_named_sam(sam) if isinstance(sam, str) and sam else sam or None)
        self.sam, self.sees_photo = self._sam.hash, bool(sam)

    def needs_of(self, depth: int) -> Need:
        """Ask for what the guide reads."""
        return self.needs | self.guide.needs_of(depth)

    def encode(self, clip: Tower, images: Tensor, regions: Tensor | None = None) -> DenseFeatures:
        """Encode images without photographs, which no SAM is to see; see `Recalibration.encode`."""
        if self.sees_photo:
            raise ConfigError(f"Trident got no photographs of {len(images)} images; SAM is to see each")
        # on the grid of the patches, whatever windows needed
        grid = (images.shape[2] // clip.patch_size, images.shape[3] // clip.patch_size)
        found = [splicing.resize(canvas, grid) for canvas in splicing.spliced(clip, images, self)]
        return _embedded(clip, images, torch.stack(found))

    def see_photos(self, clip: Tower, photos: Sequence[np.ndarray]) -> Iterator[Sight]:
        """Let SAM see photographs; see `Recalibration.see_photos`."""
        sam = self._sam.get(clip.device)
        for photo in photos:
            yield see(sam, whole_patches(photo, clip.patch_size), self.halves, self.refine)

    def encode_photos(self, clip: Tower, images: Tensor, seen: Iterable[Sight]) -> DenseFeatures:
        """Splice what windows show, mixed by SAM; see `Recalibration.encode_photos`."""
        sam, found, wholes = self._sam.get(images.device), [], []
        for canvas, sight in zip(splicing.spliced(clip, images, self), seen, strict=True):
            found.append(mix(sam, canvas.float(), sight, self.pair_factor, self.keep_negative).to(canvas.dtype))
            wholes.append(sight.whole)
        dense = _embedded(clip, images, torch.stack(found))
        dense.context.keep(Sights(wholes))
        return dense

    def finish(self, dense: DenseFeatures, answer: Answer, shares: Callable[[], ClassShares]) -> Answer:
        """Let SAM redraw the regions of the result."""
        (seen,) = dense.context.kept(Sights, Sights([None])).images
        if seen is None:  # nothing is to be redrawn
            return answer
        return redrawn(self._sam.get(dense.features.device), seen, answer, shares(), self.prompting)


def _embedded(clip: Tower, images: Tensor, tokens: Tensor) -> DenseFeatures:
    """Bring tokens (B, C, h, w) that left the last block to the joint space."""
    grid = (tokens.shape[2], tokens.shape[3])
    features = clip.patches_to_joint(tokens.flatten(2).mT).mT.unflatten(-1, grid)
    return DenseFeatures(features, features.mean((2, 3)), grid, Context(grid, images, clip, clip.mean, clip.std))
