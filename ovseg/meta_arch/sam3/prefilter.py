"""Which words an image may show at all, as a CLIP sees it: a cheap look before SAM 3 is asked for each of them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import Tensor, nn

from ovseg.clip import ClipSource, Tower, load_tower
from ovseg.clip.normalise import normalise
from ovseg.clip.tokens import DENSE
from ovseg.contract import Words
from ovseg.data.preprocessing import SizeRule
from ovseg.errors import ConfigError
from ovseg.meta_arch.section import lower_keys
from ovseg.recalibration import RECALIBRATIONS, Recalibration
from ovseg.system.registry import build
from ovseg.vocabulary import TextCache, TextEmbedder

TEMPLATES = "simple"
PATCHES = 16
"""Along the shorter side as the CLIP sees it: near what CLIPs were trained with, and a fraction of what SAM 3 sees."""


class Prefilter(nn.Module):
    """A CLIP, and the share of any place that a word must have to be asked for.

    A word is kept if somewhere the softmax over all words gives it at least `least`, and so are all other names of its
    class. Of no word the best one is kept.

    Attributes:
        clip: Looks at images and embeds the words.
        recalibration: Of its last blocks.
        least: 0..1.
    """

    def __init__(self, clip: Tower, recalibration: Recalibration, least: float) -> None:
        """Take over a loaded CLIP."""
        super().__init__()
        self.clip, self.recalibration, self.least = clip, recalibration, least
        side = PATCHES * clip.patch_size
        self.size_rule = SizeRule(side, 4 * side, "patch", clip.patch_size)

    @property
    def settings(self) -> dict[str, Any]:
        """What makes its choice, as JSON values."""
        own = {"clip": self.clip.name, "weights": self.clip.weights_hash, "method": self.recalibration.name}
        return {**own, "least": self.least}

    def read(self, texts: list[str], cache: TextCache) -> Tensor:
        """Embed words: unit rows (T, D)."""
        return TextEmbedder(self.clip, TEMPLATES, cache).embed(texts)

    def see(self, images: Tensor) -> list[Tensor]:
        """Return the features (D, h, w) of images (B, 3, H, W) in 0..255."""
        size = self.size_rule.size(images.shape[2], images.shape[3])
        small = F.interpolate(images.to(self.clip.device).float(), size, mode="bilinear", antialias=True)
        normal = normalise(small / 255, self.clip.mean, self.clip.std).to(self.clip.dtype)
        return [own.clone() for own in self.recalibration.encode(self.clip, normal).features]

    def choose(self, features: Tensor, rows: Tensor, words: Words) -> tuple[Tensor, tuple[str, ...]]:
        """Return the rows (n,) of the words that may be there, and a note on the others.

        Args:
            features: Of the image (D, h, w).
            rows: Of the words (T, D).
            words: The words.
        """
        cosines = rows.to(features) @ F.normalize(features.flatten(1), dim=0)
        sure = (self.clip.logit_scale * cosines.float()).softmax(0).amax(1)
        columns = words.columns.to(sure.device)
        best = sure.new_zeros(int(columns.max()) + 1).scatter_reduce(0, columns, sure, "amax")
        least = min(self.least, float(best.max()))
        kept = (best >= least)[columns]
        dropped = int((~(best >= least)).sum())
        note = f"{dropped} of {len(best)} classes and words were not asked for, of which a CLIP saw nothing (prefilter)"
        return torch.nonzero(kept).flatten(), (note,) if dropped else ()


def open_screen(model: CfgNode, *, prefilter: float = 0.0) -> Prefilter | None:
    """Load the CLIP of ``MODEL.CLIP`` and the method of ``MODEL.RECALIBRATION``.

    Args:
        model: The node of a config.
        prefilter: Words of which the CLIP is less sure than this everywhere are not asked for; 0 asks for all, which is
            exact and needs no CLIP.

    Raises:
        ConfigError: The share is out of range.
        OvsegError: One of the parts cannot be had.
    """
    if not 0 <= prefilter < 1:
        raise ConfigError(f"prefilter is {prefilter}; expected a share from 0 (off) to below 1")
    if not prefilter:
        return None
    node = model.RECALIBRATION
    method = build(RECALIBRATIONS, node.NAME, lower_keys(node.OPTIONS, "MODEL.RECALIBRATION.OPTIONS"))
    clip = load_tower(ClipSource.of(model.CLIP), {DENSE, *method.requires}, "the prefilter of SAM 3")
    return Prefilter(clip, method, prefilter)
