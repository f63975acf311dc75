"""SILC: small crops learn to say what a slow teacher says of large ones, and large ones what captions say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovseg.clip import Tower
from ovseg.data.multi_crops import MultiCrops
from ovseg.errors import at_least
from ovseg.losses.region_text import image_text
from ovseg.losses.self_distillation import view_agreement
from ovseg.meta_arch.tuned_clip.recipe import RECIPE_REGISTRY, Recipe, Sample, View

if TYPE_CHECKING:
    from ovseg.contract import Words


@RECIPE_REGISTRY.register()
class SILC(Recipe):
    """Self-distillation from local to global views beside the captions (Naeem et al., ECCV 2024, arXiv 2310.13355).

    There is no public code; weights, temperatures, the size of the head and the momentum are ours. The teacher is an
    average of the student whose momentum stays the same, so that it keeps learning what captions teach. A sample
    has a caption under ``caption``; those without one learn from their views alone. The text tower is frozen.
    """

    head: nn.Linear
    head_average: Tensor
    centre: Tensor

    def __init__(
        self,
        *,
        local: int = 8,
        prototypes: int = 256,
        momentum: float = 0.99,
        temperature: float = 0.1,
        sharpness: float = 0.04,
        distillation: float = 1.0,
        captions: float = 1.0,
        **common: Any,
    ) -> None:
        """Set the options.

        Args:
            local: Small crops of an image, beside two large ones.
            prototypes: Outputs of the head whose distributions agree.
            momentum: Of the teacher and its centre, the same from first to last.
            temperature: Of the student's softmax.
            sharpness: The teacher's temperature.
            distillation: Weight of the agreement of views.
            captions: Weight of the loss of captions.
            common: Options of `Recipe`.

        Raises:
            ConfigError: A value is not allowed.
        """
        super().__init__(**common)
        self.local, self.prototypes = int(at_least("local", local, 0)), int(at_least("prototypes", prototypes, 2))
        self.momentum = at_least("momentum", momentum, 0.0)
        self.temperature, self.sharpness = (
            at_least("temperature", temperature, 1e-3),
            at_least("sharpness", sharpness, 1e-3),
        )
        self.distillation, self.captions = (
            at_least("distillation", distillation, 0.0),
            at_least("captions", captions, 0.0),
        )
        self._trained: list[nn.Parameter] = []  # of the student, no part of the recipe's weights

    def begin(self, clip: Tower) -> None:
        """Build the head, and the teacher's weights as buffers, which checkpoints keep."""
        self.head = nn.Linear(clip.embed_dim, self.prototypes, bias=False)
        self.register_buffer("centre", torch.zeros(self.prototypes))
        self.register_buffer("head_average", self.head.weight.detach().clone())
        self._trained = list(self.parameters_of(clip))
        for index, value in enumerate(self._trained):
            self.register_buffer(f"average_{index}", value.detach().clone())

    def view(self, clip: Tower) -> View:
        """Cut two large and several small crops."""
        own: Any = clip
        return MultiCrops(own.image_size, clip.mean, clip.std, self.local)

    def losses(self, student: Tower, original: Tower, batch: Sequence[Sample], words: Words) -> dict[str, Tensor]:
        """Return the disagreement of views and, where a batch has captions, CLIP's loss of each large view."""
        count, dtype = len(batch), student.dtype
        large = torch.cat([sample["large"] for sample in batch]).to(student.device, dtype)
        small = torch.cat([sample["small"] for sample in batch]).to(student.device, dtype)
        taught = self._taught(student, large).view(count, 2, -1)  # first, for it lends the student other weights
        own = _whole(student, large)
        said = self.head(torch.cat([own, *([_whole(student, small)] if len(small) else [])]))
        parts = [said[: 2 * count].view(count, 2, -1), said[2 * count :].view(count, -1, self.prototypes)]
        said = torch.cat(parts, 1)
        loss = view_agreement(said, taught - self.centre, self.temperature, self.sharpness)
        if self.training:
            self.centre.lerp_(taught.mean((0, 1)), 1 - self.momentum)
        found = {"loss_views": self.distillation * loss}
        captions = [sample.get("caption", "") for sample in batch]
        told = [index for index, text in enumerate(captions) if text]
        if self.captions and len(told) > 1:
            with torch.no_grad():
                texts = F.normalize(original.text([captions[index] for index in told]).float(), dim=1)
            views = own.view(count, 2, -1)[told]
            pairs = [image_text(views[:, place], texts) for place in range(2)]
            found["loss_captions"] = self.captions * torch.stack(pairs).mean()
        return found

    @torch.no_grad()
    def _taught(self, student: Tower, images: Tensor) -> Tensor:
        """Return what the average of the student says, whose weights lie in the student for so long."""
        kept = [value.data for value in self._trained]
        try:
            for index, value in enumerate(self._trained):
                value.data = getattr(self, f"average_{index}")
            return F.linear(_whole(student, images), self.head_average)
        finally:
            for value, own in zip(self._trained, kept, strict=True):
                value.data = own

    def after_step(self, student: Tower, step: int, steps: int) -> None:
        """Let the teacher follow, by the momentum that stays the same."""
        for index, value in enumerate(self._trained):
            getattr(self, f"average_{index}").lerp_(value, 1 - self.momentum)
        self.head_average.lerp_(self.head.weight, 1 - self.momentum)


def _whole(clip: Tower, images: Tensor) -> Tensor:
    """Return the unit embedding (B, D) float32 of whole images."""
    return F.normalize(clip.dense(images).cls.float(), dim=1)
