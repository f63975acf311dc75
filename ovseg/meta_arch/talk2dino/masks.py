"""How Talk2DINO sees and names: patches of a second backbone, and texts that are brought to where they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg.clip.features import Context, DenseFeatures, Kept
from ovseg.clip.normalise import denormalise, normalise
from ovseg.clip.tokens import DENSE
from ovseg.clip.tower import Tower
from ovseg.errors import ConfigError, at_least
from ovseg.guides.timm import build_backbone
from ovseg.meta_arch.talk2dino.attention import cleaned, look
from ovseg.meta_arch.talk2dino.projection import Projection, hidden_layers
from ovseg.recalibration import Recalibration

if TYPE_CHECKING:
    from ovseg.contract import Words


@dataclass(frozen=True)
class Looks(Kept):
    """What the heads of the last block look at, (B, heads, h * w) as logits."""

    logits: Tensor


class Masks(Recalibration):
    """Masks of classes; it is no method for any CLIP, for CLIP only reads.

    Attributes:
        backbone: A frozen vision transformer of timm.
        projection: From CLIP's texts to its patches; the trained part.
    """

    requires = frozenset({DENSE})
    attention_only = False
    not_compiled = "what the heads of the last block look at is read while the backbone runs"

    def __init__(self, backbone: Any, projection: Projection, side: int = 448, cleaning: float = 0.0) -> None:
        """Put the parts together.

        Args:
            backbone: With its ``pretrained_cfg``, which says how images are normalised.
            projection: See the class.
            side: Of the squares in pixels that windows are stretched to.
            cleaning: Share of what the heads look at in the masks; 0 leaves them as they are.

        Raises:
            ConfigError: The side is no multiple of the patch, or the share below 0.
        """
        super().__init__()
        self.backbone, self.projection = backbone.eval().requires_grad_(False), projection
        self.side, self.activation = side, projection.activation
        self.cleaning = at_least("cleaning", cleaning, 0.0)
        self._patch = int(backbone.patch_embed.proj.kernel_size[0])
        if side < self._patch or side % self._patch:
            raise ConfigError(f"side is {side}; expected a multiple of the patch of the backbone, {self._patch}")

    @property
    def name(self) -> str:
        """Name of the model that it is part of."""
        return "Talk2DINO"

    def train(self, mode: bool = True) -> Masks:
        """Keep the backbone in evaluation mode."""
        super().train(mode)
        self.backbone.eval()
        return self

    def squares(self, rgb: Tensor) -> Tensor:
        """Stretch images (B, 3, h, w) in 0..1 to squares, normalised for the backbone (B, 3, side, side)."""
        size, own = (self.side, self.side), self.backbone.pretrained_cfg
        if rgb.shape[2:] != size:
            rgb = F.interpolate(rgb.float(), size, mode="bilinear", align_corners=False, antialias=True)
        return normalise(rgb, own["mean"], own["std"]).to(self.backbone.patch_embed.proj.weight.dtype)

    def encode(self, clip: Tower, images: Tensor, regions: Tensor | None = None) -> DenseFeatures:
        """Encode images (B, 3, H, W) as CLIP is given them; the whole image is the mean of its patches."""
        patches, logits = look(self.backbone, self.squares(denormalise(images.float(), clip.mean, clip.std)))
        grid = (self.side // self._patch,) * 2
        context = Context(grid, images, clip, clip.mean, clip.std)
        context.keep(Looks(logits))
        patches = patches.float()
        return DenseFeatures(patches.mT.unflatten(-1, grid), patches.mean(1), grid, context)

    def patch_scores(self, dense: DenseFeatures, words: Words) -> Tensor:
        """Return the sigmoids of the cosines (B, T, h, w), 0.27..0.73, weaker where no head looks for the class."""
        weight = self.projection.linear_layer.weight
        rows = self.projection(words.embeddings.to(weight.device, weight.dtype)).float()
        rows = F.normalize(rows, dim=-1)
        masks = dense.cosines(rows).sigmoid()
        if not self.cleaning:
            return masks
        patches, looks = dense.features.float().flatten(2).mT, dense.context.kept(Looks).logits
        return cleaned(masks.flatten(2), rows, patches, looks, self.cleaning).view_as(masks)


def make_masks(
    clip: Any,
    state: Mapping[str, Tensor] | None,
    *,
    backbone: str = "vit_base_patch14_reg4_dinov2.lvd142m",
    side: int = 448,
    cleaning: float = 0.0,
    activation: str = "tanh",
) -> Masks:
    """Build the parts of a config; the projection is yet to be filled.

    Args:
        clip: Which reads the words.
        state: Of the projection, which says how many layers it has; None is one hidden layer.
        backbone: A vision transformer of timm, ``TAG[@FILE]``.
        side: See `Masks`.
        cleaning: Likewise.
        activation: Of the projection.

    Raises:
        UnknownNameError: timm has no such model.
        ConfigError: An option is not allowed.
        WeightsError: The weights of the backbone cannot be had.
    """
    tag, _, file = backbone.partition("@")
    built: Any = build_backbone(tag, file)
    hidden = 1 if state is None else hidden_layers(state)
    return Masks(built, Projection(clip.embed_dim, built.embed_dim, hidden, activation), side, cleaning)


def width_of(backbone: str) -> int:
    """Return the channels of a backbone ``TAG[@FILE]``; no weights are read."""
    import timm

    with torch.device("meta"):
        built: Any = timm.create_model(backbone.partition("@")[0].partition(".")[0], pretrained=False, num_classes=0)
    return int(built.embed_dim)
