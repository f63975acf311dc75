"""How a mask is shown to CLIP, so that it says what the mask has: by an alpha channel, or cut out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovseg.clip import Tower, ViTClip
from ovseg.clip.alpha import AlphaTower, normalise_alpha
from ovseg.clip.mask_prompts import MaskPrompts
from ovseg.clip.normalise import denormalise
from ovseg.clip.open_clip_vit import ViTTower
from ovseg.clip.tokens import STREAM
from ovseg.errors import ConfigError, one_of
from ovseg.proposals.crops import crop_masks
from ovseg.proposals.looks import boxes_of, cut, squares

LOOKS = ("alpha", "cut", "box", "prompted")
_AT_ONCE = 32


class Look(nn.Module):
    """Shows masks of an image to CLIP.

    Attributes:
        look: ``alpha`` (Alpha-CLIP: the picture as it is, and the mask beside it), ``cut`` (what is outside of the mask
            is the mean colour, as OVSeg prepares its crops) or ``box`` (the plain crop around the mask);
            ``prompted`` is OVSeg's own crop, and learned tokens in the place of patches that the mask does not touch.
        margins: How far from the box of a mask (0) to the whole picture (1) the frame goes; embeddings of several
            are averaged (GC-CLIP, arXiv 2309.06581).
        alpha: The tower of the look ``alpha``, whose convolution is its own; None for others.
        prompts: The tokens of the look ``prompted``; None for others.
    """

    def __init__(self, clip: Tower, look: str, margins: Sequence[float]) -> None:
        """Check the options against a CLIP.

        Raises:
            ConfigError: There is no such look, a margin is no share, or the CLIP has no patch embedding for a mask.
        """
        super().__init__()
        self.look = one_of("MODEL.MaskClassifier.LOOK", look, LOOKS)
        self.margins = tuple(float(margin) for margin in margins) or ((1.0,) if look == "alpha" else (0.1,))
        if not all(0 <= margin <= 1 for margin in self.margins):
            raise ConfigError(
                f"MODEL.MaskClassifier.MARGINS is {list(margins)}; expected shares, 0 the box, 1 the image"
            )
        self.prompts = MaskPrompts.for_clip(clip) if look == "prompted" else None
        if self.prompts is not None and margins:
            raise ConfigError("the look prompted has crops of its own; leave MODEL.MaskClassifier.MARGINS out")
        self.alpha: AlphaTower | None = None
        if look == "alpha":
            if not isinstance(clip, ViTClip) or not isinstance(clip.tower, ViTTower):
                raise ConfigError(
                    f"the look alpha needs a vision transformer of open_clip's own, and {clip.name} is none; set "
                    "MODEL.MaskClassifier.LOOK to cut, or take a ViT such as ViT-B-16"
                )
            self.alpha = AlphaTower(clip.tower)

    def forward(self, clip: Tower, image: Tensor, masks: Tensor) -> Tensor:
        """Embed masks.

        Args:
            clip: Of the constructor.
            image: Normalised (3, H, W).
            masks: (Q, H, W) bool.

        Returns:
            Unit vectors (Q, D) float32.
        """
        if self.prompts is not None:
            return self._prompted(self.prompts, clip, image, masks)
        boxes, side = boxes_of(masks), _side(clip)
        size = (masks.shape[1], masks.shape[2])
        parts = [self._embed(clip, image, masks, squares(boxes, size, margin), side) for margin in self.margins]
        return F.normalize(sum(F.normalize(part.float(), dim=-1) for part in parts), dim=-1)  # type: ignore[arg-type]

    def _prompted(self, prompts: MaskPrompts, clip: Tower, image: Tensor, masks: Tensor) -> Tensor:
        """Return what OVSeg sees of masks, each of which has a pixel."""
        crops = crop_masks(255 * denormalise(image.float()[None], clip.mean, clip.std)[0], masks, _side(clip))
        with clip.autocast():
            return F.normalize(prompts(clip, crops.regions, crops.masks).float(), dim=-1)

    def _embed(self, clip: Tower, image: Tensor, masks: Tensor, frames: Tensor, side: int) -> Tensor:
        """Return the embeddings (Q, D) of masks in their frames (Q, 4)."""
        found = []
        for part in torch.arange(len(masks), device=masks.device).split(_AT_ONCE):
            shown = cut(image[None].float(), frames[part], side)
            if self.look == "box":
                found.append(embed(clip, shown))
                continue
            inside = cut(masks[part, None].float(), frames[part], side)
            if self.alpha is None:
                found.append(embed(clip, shown * inside))  # 0 is the mean colour
            else:
                with clip.autocast():
                    found.append(self.alpha(shown, normalise_alpha(inside)))
        return torch.cat(found)

    def whole(self, clip: Tower, image: Tensor) -> Tensor:
        """Return the unit embedding (D,) of a whole normalised image (3, H, W)."""
        mask = torch.ones(1, *image.shape[1:], dtype=torch.bool, device=image.device)
        frame = squares(boxes_of(mask), (image.shape[1], image.shape[2]), 1.0)
        shown = cut(image[None].float(), frame, _side(clip))
        if self.alpha is None:
            return F.normalize(embed(clip, shown)[0].float(), dim=-1)
        with clip.autocast():
            found = self.alpha(shown, normalise_alpha(torch.ones_like(shown[:, :1])))[0]
        return F.normalize(found.float(), dim=-1)


def embed(clip: Tower, images: Tensor) -> Tensor:
    """Return CLIP's embeddings (B, D) of normalised squares (B, 3, S, S)."""
    if STREAM not in clip.has:
        return clip.dense_map(images, "bicubic", False)[1]
    with clip.autocast():
        tokens, grid = clip.embed(images, "bicubic")
        for block in clip.blocks_on(grid):
            tokens = block(tokens)
        return clip.head(tokens)[1]


def _side(clip: Tower) -> int:
    """Return the side of the squares that a CLIP was trained with, or 224 pixels where it does not say."""
    return int(getattr(clip, "image_size", 224))
