"""ConvNeXt image towers of open_clip: levels, and embeddings of single feature vectors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ovseg.ops.mask_pooling import mask_pool
from ovseg.system.device import is_cpu

STAGES = ("res2", "res3", "res4", "res5")
HIDDEN_VALUES = 2**22
"""So many values of a block's hidden layer are held at a time."""


class ConvNeXtTower:
    """An open_clip tower over timm's ConvNeXt."""

    recipe = (
        "every place goes through the last norm and the projection by itself, as CLIP does with the mean of an image "
        "(FC-CLIP, arXiv 2308.02487, embeds the mean of a mask so)"
    )

    def __init__(self, visual: Any) -> None:
        """Adapt a tower."""
        self.trunk, self.head = visual.trunk, visual.head

    @property
    def channels(self) -> dict[str, int]:
        """Channels of every level."""
        widths = [info["num_chs"] for info in self.trunk.feature_info]
        return {"stem": widths[0], **dict(zip(STAGES, widths, strict=True)), "dense": widths[-1]}

    @property
    def body(self) -> list[nn.Module]:
        """The modules that make the levels, all but the embedding of masks."""
        return [self.trunk.stem, self.trunk.stages]

    def levels(self, images: Tensor) -> dict[str, Tensor]:
        """Return all levels of images (B, 3, H, W): ``stem`` and ``res2`` at 1/4, then 1/8, 1/16 and 1/32."""
        x = found = self.trunk.stem(images)
        levels = {"stem": found}
        for name, stage in zip(STAGES, self.trunk.stages, strict=True):
            x = run_stage(stage, x)
            levels[name] = x.contiguous()  # ours lie pixel by pixel; heads get them so that their kernels round alike
        levels["dense"] = self.trunk.norm_pre(x).contiguous()
        return levels

    def each(self, places: Tensor, grid: tuple[int, int], rule: str, own_values: bool) -> tuple[Tensor, Tensor]:
        """Bring places (B, N, C) to the joint space (B, N, D), and their image (B, D); nothing else is looked at.

        An image is the mean of its places before the last norm, so its embedding is not the mean of theirs.
        """
        return self.embed(places), self.embed(places.mean(1, keepdim=True))[:, 0]

    def embed(self, vectors: Tensor) -> Tensor:
        """Bring feature vectors (B, N, C) to the joint space (B, N, D), each as CLIP does with the mean of an image."""
        found = self.head(self.trunk.head(vectors.flatten(0, 1)[:, :, None, None]))
        return found.unflatten(0, vectors.shape[:2])

    def pool(self, dense: Tensor, mask_logits: Tensor) -> Tensor:
        """Embed masks: the mean of the dense features inside of each, then the head; an empty mask counts as zeros."""
        return self.embed(mask_pool(dense, mask_logits))


def run_stage(stage: Any, x: Tensor) -> Tensor:
    """Run a stage of timm's ConvNeXt on (B, C, H, W); on the CPU, where nothing is trained, it holds less than timm's.

    A block's hidden layer is four times as wide as all around it, and of a large image half of all that is held.
    """
    if torch.is_grad_enabled() or not is_cpu(x.device):
        found: Tensor = stage(x)
        return found
    x = stage.downsample(x)
    for block in stage.blocks:
        alone = not block.use_conv_mlp and isinstance(block.mlp.norm, nn.Identity)  # each pixel goes its own way
        x = _by_rows(block, x) if alone else block(x)
    return x


def _by_rows(block: Any, x: Tensor) -> Tensor:
    """Run a block as timm's `ConvNeXtBlock.forward` does, but behind its convolution some rows of pixels at a time."""
    own, beside = (y.permute(0, 2, 3, 1) for y in (block.conv_dw(x), block.shortcut(x)))
    scale = x.new_ones(()) if block.gamma is None else block.gamma
    found = x.new_empty(own.shape, dtype=torch.promote_types(x.dtype, scale.dtype))
    rows = max(1, HIDDEN_VALUES // (block.mlp.fc1.out_features * own.shape[0] * own.shape[2]))
    for part, kept, place in zip(*(y.split(rows, dim=1) for y in (own, beside, found)), strict=True):
        place.copy_(block.mlp(block.norm(part)) * scale + kept)
    return found.permute(0, 3, 1, 2)
