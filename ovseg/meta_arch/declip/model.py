"""DeCLIP: what patches mean is taught by crops, and which belong together by a second backbone without words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from ovseg.checkpoint.loading import Official
from ovseg.checkpoint.strict import rename
from ovseg.clip import Tower
from ovseg.clip.normalise import normalise
from ovseg.errors import ConfigError, at_least, one_of
from ovseg.guides import build_guide
from ovseg.losses.alignment import backbone_tokens, content_loss, context_loss, fit_tokens, likeness
from ovseg.losses.cells import crop_squares, draw_cells, pool_boxes
from ovseg.meta_arch.taught_clip import Lesson, TaughtClip, student_view
from ovseg.recalibration.declip import Belonging, TaughtDeCLIP

_TRUNK = r"clip\.model\.visual\.trunk\.(.*)"
NAMES = (
    (_TRUNK + r"attn\.q_proj\.bias", r"visual.\1attn.q_bias"),
    (_TRUNK + r"attn\.v_proj\.bias", r"visual.\1attn.v_bias"),
    (_TRUNK + r"attn\.norm\.(.+)", r"visual.\1attn.inner_attn_ln.\2"),
    (_TRUNK + r"mlp\.fc1_g\.(.+)", r"visual.\1mlp.w1.\2"),
    (_TRUNK + r"mlp\.fc1_x\.(.+)", r"visual.\1mlp.w2.\2"),
    (_TRUNK + r"mlp\.norm\.(.+)", r"visual.\1mlp.ffn_ln.\2"),
    (_TRUNK + r"mlp\.fc2\.(.+)", r"visual.\1mlp.w3.\2"),
    (_TRUNK, r"visual.\1"),
    (r"clip\.model\.(.+)", r"\1"),
)
"""Our names, and those of EVA-CLIP's code, in whose layout the authors' checkpoints are."""
OFFICIAL = Official("DeCLIP", "visual.", lambda key: rename(key, NAMES), (r".*rope\.freqs_(?:cos|sin)", r".*attn_mask"))


class DeCLIPLesson(Lesson):
    """Crops teach regions, and a guide teaches likeness; see the module."""

    def __init__(
        self,
        *,
        mode: str = "qq",
        guide: str = "timm:vit_base_patch14_reg4_dinov2.lvd142m",
        side: int = 560,
        boxes: int = 20,
        most_cells: int = 6,
        content_weight: float = 1.0,
        context_weight: float = 0.1,
    ) -> None:
        """Set the options; defaults are those of the authors' scripts.

        Args:
            mode: Whether queries (``qq``), keys (``kk``) or values (``vv``) are compared in the last block.
            guide: The second backbone (`ovseg.guides`); empty leaves likeness out.
            side: Of the square that the student sees, in pixels.
            boxes: At most so many cells of an image are regions.
            most_cells: An image is cut into at most so many rows.
            content_weight: Of what regions mean.
            context_weight: Of which patches belong together.
        """
        super().__init__()
        self.mode, self.guide, self.side = one_of("mode", mode, ("qq", "kk", "vv")), guide, at_least("side", side, 1)
        self.boxes, self.most_cells = at_least("boxes", boxes, 1), at_least("most_cells", most_cells, 1)
        self.weights = (content_weight, context_weight)
        self._teachers: list[Any] = []  # a list, for they are no part of what is trained or stored

    def idle(self, clip: Tower) -> tuple[str, ...]:
        """Return what of the last block takes no part: its feed-forward half, and what is compared with nothing."""
        last = f"blocks.{clip.depth - 1}."
        parts = ["ln_2", "norm2", "mlp.c_fc", "mlp.c_proj", "mlp.fc1_g", "mlp.fc1_x", "mlp.norm", "mlp.fc2"]
        unused = {"qq": ["attn.k_proj"], "kk": ["attn.q_proj"], "vv": ["attn.q_proj", "attn.k_proj"]}[self.mode]
        return tuple(f"{last}{part}.{end}" for part in [*parts, *unused] for end in ("weight", "bias"))

    def begin(self, clip: Tower) -> None:
        """Copy the CLIP as the teacher of crops, and load the guide.

        Raises:
            OvsegError: The guide cannot be had.
        """
        if self.side < clip.patch_size:
            raise ConfigError(f"side is {self.side}; expected at least one patch of {clip.patch_size} pixels")
        self._teachers = [self.frozen_copy(clip), build_guide(self.guide).to(clip.device) if self.guide else None]

    def losses(self, clip: Tower, images: Tensor, masks: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return the losses ``content`` and ``context``; the masks are not looked at."""
        teacher, guide = self._teachers
        cells, owners = draw_cells(len(images), self.boxes, self.most_cells, images.device)
        crops = crop_squares(images, cells, owners, teacher.image_size)
        with torch.no_grad():
            wanted = teacher.dense(normalise(crops, clip.mean, clip.std)).cls
        dense = clip.dense(student_view(clip, images, self.side), TaughtDeCLIP(mode=self.mode))
        own = pool_boxes(F.normalize(dense.features, dim=1), cells, owners)
        found = {"content": self.weights[0] * content_loss(own, wanted)}
        if guide is not None:
            with torch.no_grad():
                other = guide(dense.context).float()
            tokens = dense.context.kept(Belonging).of_patches
            fitted = fit_tokens(tokens, dense.grid, (other.shape[2], other.shape[3]))
            found["context"] = self.weights[1] * context_loss(likeness(fitted), likeness(backbone_tokens(other)))
        return found


@META_ARCH_REGISTRY.register()
class TunedDeCLIP(TaughtClip):
    """DeCLIP (Wang et al., CVPR 2025, arXiv 2505.04410; github.com/xiaomoguhz/DeCLIP)."""

    made_of = {"lesson": DeCLIPLesson}  # noqa: RUF012
    official = OFFICIAL
