"""DeCLIP: what patches mean is taught by crops, and which belong together by a second backbone without words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovseg.clip import Tower
from ovseg.clip.tokens import ATTENTION, DENSE, STREAM
from ovseg.data.grid_crops import GridCrops
from ovseg.errors import at_least, one_of
from ovseg.guides import Guide, build_guide
from ovseg.losses.alignment import backbone_tokens, context_loss, fit_tokens, likeness
from ovseg.losses.self_distillation import cosine_loss
from ovseg.meta_arch.tuned_clip.recipe import RECIPE_REGISTRY, Recipe, Sample, View
from ovseg.ops.box_pooling import pool_boxes
from ovseg.recalibration.declip import Belonging, TaughtDeCLIP

if TYPE_CHECKING:
    from ovseg.contract import Words

_UNUSED = {"qq": ("k_proj",), "kk": ("q_proj",), "vv": ("q_proj", "k_proj")}


@RECIPE_REGISTRY.register()
class DeCLIP(Recipe):
    """Content from crops, context from a guide (Wang et al., CVPR 2025, arXiv 2505.04410).

    Code: github.com/xiaomoguhz/DeCLIP. The last block is that of the method DeCLIP: what is compared there is taught by the guide. The released weights are
    ``0.7 * student + 0.3 * original`` for ViT-B/16, 0.95 of the student for ViT-L/14.
    """

    requires = frozenset({DENSE, STREAM, ATTENTION})

    def __init__(
        self,
        *,
        mode: str = "qq",
        guide: str = "timm:vit_base_patch14_reg4_dinov2.lvd142m",
        side: int = 560,
        boxes: int = 20,
        split: int = 6,
        content: float = 1.0,
        context: float = 0.1,
        **common: Any,
    ) -> None:
        """Set the options; defaults are those of the authors' scripts.

        Args:
            mode: Whether queries (``qq``), keys (``kk``) or values (``vv``) are compared in the last block.
            guide: The second backbone (`ovseg.guides`).
            side: Of the square in pixels that the student sees.
            boxes: Most cells of an image.
            split: Most rows and columns of a grid.
            content: Weight of what regions mean.
            context: Weight of which patches belong together; 0 needs no guide.
            common: Options of `Recipe`.

        Raises:
            ConfigError: A value is not allowed.
        """
        super().__init__(**common)
        self.mode, self.guide = one_of("mode", mode, tuple(_UNUSED)), guide
        self.side, self.boxes = int(at_least("side", side, 1)), int(at_least("boxes", boxes, 1))
        self.split = int(at_least("split", split, 1))
        self.content, self.context = at_least("content", content, 0.0), at_least("context", context, 0.0)
        self._guides: tuple[Guide, ...] = ()  # in a tuple it is no part of the recipe's weights

    def parameters_of(self, clip: Tower) -> Iterable[nn.Parameter]:
        """Return those of the blocks, less what of the last one takes no part.

        That is its feed-forward half with the norm before it, and weights whose vectors are compared with nothing,
        where they lie apart.
        """
        module = clip.blocks[-1].module  # type: ignore[attr-defined]
        idle = [getattr(module, name, None) for name in ("ln_2", "norm2", "mlp")]
        idle += [getattr(module.attn, name, None) for name in _UNUSED[self.mode]]
        left = {id(weight) for part in idle if part is not None for weight in part.parameters()}
        yield from (weight for weight in super().parameters_of(clip) if id(weight) not in left)

    def view(self, clip: Tower) -> View:
        """Cut images by random grids; crops have the size that the CLIP was trained with."""
        return GridCrops(self.side, clip.image_size, clip.mean, clip.std, self.boxes, self.split)  # type: ignore[attr-defined]

    def start(self, student: Tower, original: Tower, words: Words) -> None:
        """Load the guide."""
        if self.context:
            self._guides = (build_guide(self.guide).to(student.device),)  # type: ignore[attr-defined]

    def losses(self, student: Tower, original: Tower, batch: Sequence[Sample], words: Words) -> dict[str, Tensor]:
        """Return the distance of regions from crops, and that of two likenesses of all patches."""
        device, dtype = student.device, student.dtype  # type: ignore[attr-defined]
        images = torch.stack([sample["square"] for sample in batch]).to(device, dtype)
        crops = torch.cat([sample["crops"] for sample in batch]).to(device, dtype)
        with torch.no_grad():
            wanted = original.dense(crops).cls
        dense = student.dense(images, TaughtDeCLIP(mode=self.mode))
        own = pool_boxes(F.normalize(dense.features.float(), dim=1), [sample["boxes"] for sample in batch])
        found = {"loss_content": self.content * cosine_loss(own, wanted)}
        for guide in self._guides:
            with torch.no_grad():
                other = guide(dense.context).float()
            tokens = dense.context.kept(Belonging).of_patches
            fitted = fit_tokens(tokens, dense.grid, (other.shape[2], other.shape[3]))
            lesson = context_loss(likeness(fitted), likeness(backbone_tokens(other)))
            found["loss_context"] = self.context * lesson
        return found
